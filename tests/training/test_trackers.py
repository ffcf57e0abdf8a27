"""Trackers, the real ones, on this machine alone."""

import sys
import time

import pytest

from maskdpo_ray.config import TrackingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.trackers import Trackers, open_trackers

LINES = [{"step": n, "loss": 1 / n, "rewards/chosen": 0.5 * n} for n in range(1, 6)]


def watch(kind: str, output: Folder, history: list, new: list) -> None:
    project = {} if kind == "tensorboard" else {"project": "tests"}
    tracking = TrackingConfig(report_to=[kind], **project)
    trackers = open_trackers(tracking, output, "run", "abc123", {"beta": 0.1}, history)
    for line in new:
        trackers.add(line)
    trackers.close()


def events(folder) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload().Scalars("loss")
    assert len({event.step for event in found}) == len(found)
    return {event.step: event.value for event in found}


@pytest.mark.parametrize("kept", [0, 3, 4])
def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path, kept):
    """The first session saw four steps; a checkpoint kept some of them."""
    watch("tensorboard", Folder(tmp_path), [], LINES[:4])
    watch("tensorboard", Folder(tmp_path), LINES[:kept], LINES[kept:])
    expected = {line["step"]: pytest.approx(line["loss"]) for line in LINES}
    assert events(tmp_path / "tensorboard") == expected


def test_mlflow_goes_on_in_the_same_run(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    watch("mlflow", Folder(tmp_path), [], LINES[:4])
    watch("mlflow", Folder(tmp_path), LINES[:3], LINES[3:])
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tests").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.params == {"beta": "0.1"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(n["step"], n["loss"]) for n in LINES]


def test_wandb_writes_a_run_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    watch("wandb", Folder(tmp_path), LINES[:2], LINES[2:])
    (run,) = tmp_path.glob("wandb/offline-run-*-abc123/run-abc123.wandb")
    deadline = time.monotonic() + 60  # its own process writes, and may be late on a busy machine
    while b"rewards/chosen" not in run.read_bytes():
        assert time.monotonic() < deadline, run.read_bytes()
        time.sleep(0.1)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'maskdpo-ray\[wandb\]'"):
        watch("wandb", Folder(tmp_path), [], [])


def test_a_tracker_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.raises(UserError, match="tracking.report_to=mlflow does not start: .*nonsense"):
        watch("mlflow", Folder(tmp_path), [], [])


def test_a_tracker_that_fails_on_the_way_leaves_the_others(caplog):
    class Broken:
        def add(self, line):
            raise OSError("connection lost")

    class Sound:
        seen = 0

        def add(self, line):
            self.seen += 1

    sound = Sound()
    trackers = Trackers({"broken": Broken(), "sound": sound})
    for line in LINES:
        trackers.add(line)
    assert sound.seen == 5
    assert caplog.text.count("connection lost") == 1
