"""A driver of training on a cluster of its own: ``RAY_ADDRESS=... python elastic_run.py JOB``.

JOB is a JSON file: model, settings, pairs, references, output, workers.
"""

import json
import os
import sys
import time
from pathlib import Path

from maskdpo_ray.config import ModelConfig, TrainingConfig, WorkersConfig
from maskdpo_ray.storage import Folder

METRICS = "metrics.jsonl"


class SlowDisk(Folder):
    """Notes who writes a step down, and waits for as long as ``hold`` names the steps there are:
    so events fall where a test wants them."""

    def __reduce__(self) -> tuple:
        return (type(self), (self.uri,))

    def write(self, name, content) -> None:
        Folder(self.uri).write(name, content)

    def path(self, name: str) -> str:
        if name == METRICS:
            with open(Path(self.uri, "steps.log"), "a", encoding="utf-8") as log:
                log.write(f"{os.getpid()}\n")
            while self._held():
                time.sleep(0.05)
        return super().path(name)

    def _held(self) -> bool:
        hold, metrics = Path(self.uri, "hold"), Path(self.uri, METRICS)
        return hold.exists() and int(hold.read_text()) <= len(metrics.read_text().splitlines())


if __name__ == "__main__":
    import ray

    from maskdpo_ray.training.stage import run_training
    from maskdpo_ray.training.worker import TrainingJob

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    workers_log = Path(job["output"], "workers.log")

    def pairs() -> list[dict]:
        """Read by every worker when it starts."""
        with open(workers_log, "a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} {ray.get_runtime_context().get_node_id()}\n")
        return job["pairs"]

    training = TrainingJob(
        model=ModelConfig(**job["model"]),
        settings=TrainingConfig(**job["settings"]),
        seed=0,
        pairs=pairs,
        references=lambda: job["references"],
        output=SlowDisk(job["output"]),
    )
    run_training(training, WorkersConfig(**job["workers"]), log_every=0.2)
