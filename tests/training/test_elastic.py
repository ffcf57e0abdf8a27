"""Workers and nodes come and go while training follows one curve: real raylets, real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from node_cluster import node_cluster
from runs import assert_same_run, weights_of

from maskdpo_ray.storage import Folder

HERE = Path(__file__).parent
STEPS = 30
EVERY = 5  # steps between checkpoints
PATIENCE = 240  # seconds until an event must have come
NODE = {"num_cpus": 1, "resources": {"train": 1}}
ELASTIC = {"workers": [1, 2], "cpus": 0, "resources": {"train": 1}, "resize_seconds": 1}
FAILURES = {"max_failures": 2}  # a killed process and a lost node; a drained one is none


@pytest.fixture
def cluster():
    """A head without room for a worker, and two nodes with room for one each."""
    with node_cluster({"num_cpus": 4}, NODE) as made:
        yield made


@pytest.fixture(scope="module")
def job(model_config, settings, pairs, references) -> dict:
    changes = {"epochs": STEPS // 5, "zero_stage": 3, "checkpoint_every": EVERY}
    return {
        "model": model_config.model_dump(),
        "settings": settings.model_copy(update=changes).model_dump(),
        "pairs": pairs,
        "references": references,
        "workers": ELASTIC | FAILURES,
    }


@pytest.fixture(scope="module")
def undisturbed(one_rank, job, tmp_path_factory):
    """The same job on one rank that nothing happens to: its lines, and the job."""
    from maskdpo_ray.config import ModelConfig, TrainingConfig
    from maskdpo_ray.training.worker import TrainingJob

    whole = TrainingJob(
        ModelConfig(**job["model"]),
        TrainingConfig(**job["settings"]),
        0,
        lambda: job["pairs"],
        lambda: job["references"],
        Folder(tmp_path_factory.mktemp("undisturbed")),
    )
    return one_rank.train(whole), whole


class Run:
    """Training in a driver of its own, and what is seen of it from outside."""

    def __init__(self, folder: Path, address: str, job: dict) -> None:
        self.folder, self.log = folder, folder / "driver.log"
        (folder / "job.json").write_text(json.dumps({**job, "output": str(folder)}))
        self._driver = subprocess.Popen(
            [sys.executable, HERE / "elastic_run.py", folder / "job.json"],
            stdout=open(self.log, "w"), stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "RAY_ADDRESS": address,
                "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
            },
        )  # fmt: skip

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.kill()

    def lines(self) -> list[dict]:
        """Of ``metrics.jsonl``, the one that is being written left out."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def workers(self) -> list[list[str]]:
        """(process, node) of every worker that started, oldest first."""
        file = self.folder / "workers.log"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def steps_done(self) -> int:
        return len((self.folder / "steps.log").read_text().splitlines())

    def wait(self, happened) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert self._driver.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def hold_at(self, step: int) -> None:
        """Let training go on until this step is written down and the next one is done."""
        (self.folder / "hold.new").write_text(str(step))
        (self.folder / "hold.new").rename(self.folder / "hold")
        self.wait(lambda: len(self.lines()) == step)

    def go_on(self) -> None:
        (self.folder / "hold").unlink()

    def wait_for_workers(self, count: int) -> None:
        """Until so many have started since the beginning."""
        self.wait(lambda: len(self.workers()) >= count)

    def finish(self) -> None:
        assert self._driver.wait(timeout=PATIENCE) == 0, self.log.read_text()


def drain(cluster, node: str, seconds: int) -> None:
    """As an autoscaler announces that a node will be taken away in a while."""
    subprocess.run(
        [Path(sys.executable).parent / "ray", "drain-node", f"--address={cluster.address()}",
         f"--node-id={node}", "--reason=DRAIN_NODE_REASON_PREEMPTION",
         "--reason-message=spot", f"--deadline-remaining-seconds={seconds}"],
        check=True, capture_output=True,
    )  # fmt: skip


def test_one_curve_whatever_happens_to_workers_and_nodes(cluster, job, undisturbed, tmp_path):
    with Run(tmp_path, cluster.address(), job) as run:
        run.hold_at(3)
        os.kill(int(run.workers()[1][0]), signal.SIGKILL)
        run.wait_for_workers(4)
        run.go_on()

        run.hold_at(8)
        cluster.remove_node(run.workers()[3][1])
        run.wait_for_workers(5)
        run.go_on()

        run.hold_at(13)
        cluster.add_node()
        run.wait_for_workers(7)
        run.go_on()

        run.hold_at(16)
        leaving = run.workers()[6][1]
        drain(cluster, leaving, seconds=20)
        time.sleep(5)  # Ray Train looks twice a second here; what is tested is what happens then
        run.hold_at(18)
        run.wait(lambda: f"node {leaving} will be taken away" in run.log.read_text())
        time.sleep(20)  # a node that ends before its time is an ordinary loss
        cluster.remove_node(leaving)
        run.wait_for_workers(8)
        run.go_on()
        run.finish()

    lines = run.lines()
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    expected, whole = undisturbed
    weights = weights_of(replace(whole, output=Folder(tmp_path)))
    assert_same_run(lines, weights, (expected, weights_of(whole)))
    assert [line["workers"] for line in lines] == [2] * 5 + [1] * 5 + [2] * 7 + [1] * 13
    repeated = run.steps_done() - STEPS
    assert 3 * 3 + 1 <= repeated <= 3 * 4 + 2, "those since the last checkpoint, each time"
