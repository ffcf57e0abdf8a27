"""Trackers, the real ones, on this machine alone."""

import shutil
import sys
import time

import pytest
from event_files import events
from mlflow import MlflowClient

from maskdpo_ray.config import TrackingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.trackers import Trackers, open_trackers

LINES = [{"step": n, "loss": 1 / n, "rewards/chosen": 0.5 * n} for n in range(1, 6)]
CURVE = [(line["step"], line["loss"]) for line in LINES]


def start(kind: str, output: Folder, history: list, identity: str = "identity") -> Trackers:
    project = {} if kind == "tensorboard" else {"project": "tests"}
    tracking = TrackingConfig(report_to=[kind], **project)
    return open_trackers(tracking, output, "run", identity, {"beta": 0.1}, history)


def watch(kind: str, output: Folder, history: list, new: list, failed: bool = False) -> None:
    trackers = start(kind, output, history)
    for line in new:
        trackers.add(line)
    trackers.close(failed)


@pytest.mark.parametrize("kept", [0, 3, 4])
def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path, kept):
    """The first session saw four steps; a checkpoint kept some of them."""
    watch("tensorboard", Folder(tmp_path), [], LINES[:4])
    watch("tensorboard", Folder(tmp_path), LINES[:kept], LINES[kept:])
    assert events(tmp_path / "tensorboard") == [(step, pytest.approx(y)) for step, y in CURVE]


def test_mlflow_goes_on_in_the_same_run(tmp_path, mlflow_runs):
    settings = {"beta": "0.1"}
    watch("mlflow", Folder(tmp_path), [], LINES[:4], failed=True)
    assert mlflow_runs() == [("FAILED", settings, CURVE[:4])]
    trackers = start("mlflow", Folder(tmp_path), LINES[:3])
    assert mlflow_runs() == [("RUNNING", settings, CURVE[:4])]
    for line in LINES[3:]:
        trackers.add(line)
    trackers.close()
    assert mlflow_runs() == [("FINISHED", settings, CURVE)]


def test_mlflow_shows_what_was_measured_before_the_first_step(tmp_path, mlflow_runs):
    before = [{"step": 0, "samples/tokens": 30.0}, *LINES[:2]]
    watch("mlflow", Folder(tmp_path), before[:1], before[1:])
    watch("mlflow", Folder(tmp_path), before, LINES[2:])
    ((_, _, curve),) = mlflow_runs()
    assert curve == CURVE
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    (shown,) = client.get_metric_history(run.info.run_id, "samples/tokens")
    assert (shown.step, shown.value) == (0, 30.0)


def test_training_begun_anew_at_the_same_path_is_a_run_of_its_own(tmp_path, mlflow_runs):
    output = tmp_path / "run"
    output.mkdir()
    watch("mlflow", Folder(output), [], LINES[:4])
    shutil.rmtree(output)
    lower = [{**line, "loss": line["loss"] / 2} for line in LINES]
    watch("mlflow", Folder(output), [], lower)
    curves = [curve for _, _, curve in mlflow_runs()]
    assert curves == [CURVE[:4], [(line["step"], line["loss"]) for line in lower]]


def test_training_of_something_else_in_the_same_folder_is_a_run_of_its_own(tmp_path, mlflow_runs):
    """As where the checkpoints were removed because they belonged to other pairs."""
    watch("mlflow", Folder(tmp_path), [], LINES)
    start("mlflow", Folder(tmp_path), LINES[:2], identity="another").close()
    assert [curve for _, _, curve in mlflow_runs()] == [CURVE, CURVE[:2]]


def test_wandb_writes_a_run_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    watch("wandb", Folder(tmp_path), LINES[:2], LINES[2:])
    key = Folder(tmp_path).read_json("tracking.json")["key"]
    (run,) = tmp_path.glob(f"wandb/offline-run-*-{key}/run-{key}.wandb")
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
