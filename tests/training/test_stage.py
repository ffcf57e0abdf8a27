"""Ray Train around the worker loop: a killed worker, a second session, trouble to mend."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from maskdpo_ray.config import ModelConfig, WorkersConfig
from maskdpo_ray.errors import UserError


def read_lines(job) -> list[dict]:
    return [json.loads(line) for line in job.output.read("metrics.jsonl").splitlines()]


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the awaited event did not come"
        time.sleep(0.02)


@pytest.fixture
def kill_a_worker(tmp_path):
    """Kills one training worker, for real, once three steps are written down."""
    pids = tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def watch(job) -> threading.Thread:
        def run() -> None:
            wait_for(lambda: job.output.exists("metrics.jsonl") and len(read_lines(job)) >= 3, 240)
            killed.append(int(min(pids.iterdir()).name))
            os.kill(killed[0], signal.SIGKILL)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    return pids, watch, killed


def test_kill_then_damage_then_finish(
    ray_cluster, one_rank, make_job, pairs, references, kill_a_worker, capfd
):
    from maskdpo_ray.training.stage import run_training

    undisturbed = one_rank.train(make_job("undisturbed"))
    folder, watch, killed = kill_a_worker

    def pairs_of_a_worker():
        Path(folder, str(os.getpid())).touch()
        return pairs

    job = make_job("killed", fields={"pairs": pairs_of_a_worker}, zero_stage=2, checkpoint_every=2)
    thread = watch(job)
    final = run_training(job, WorkersConfig(workers=2, max_failures=1), log_every=0.2)
    thread.join()
    assert len(list(folder.iterdir())) == 4, "two workers before the kill and two after it"

    lines = read_lines(job)
    expected = pytest.approx([line["loss"] for line in undisturbed], rel=1e-5)
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["loss"] for line in lines] == expected
    assert final == lines[-1]
    assert "train 10/10  loss" in capfd.readouterr().err

    # A second session: the newest checkpoint is damaged, the one before it is used.
    checkpoints = sorted(Path(job.output.uri, "checkpoints").glob("checkpoint_*/"))
    assert len(checkpoints) == job.settings.keep_checkpoints
    (checkpoints[-1] / "state-00001.safetensors").write_bytes(b"cut")
    before = read_lines(job)
    run_training(job, WorkersConfig(workers=2))
    after = read_lines(job)
    assert [line["loss"] for line in after] == expected
    kept = [a["seconds"] == b["seconds"] for a, b in zip(after, before, strict=True)]
    assert kept == [True] * 8 + [False] * 2, "steps 9 and 10 are done again, no others"


def test_trouble_to_mend_comes_back_in_one_line_without_retries(ray_cluster, make_job):
    from maskdpo_ray.training.stage import run_training

    nowhere = ModelConfig(path="/nowhere/model", dtype="float32")
    with pytest.raises(UserError, match="'/nowhere/model' does not exist") as raised:
        run_training(make_job(fields={"model": nowhere}), WorkersConfig(max_failures=3))
    assert "\n" not in str(raised.value)
