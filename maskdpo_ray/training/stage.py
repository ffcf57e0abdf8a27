"""The training stage: the worker loop in Ray Train workers, checkpoints through Ray Train."""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from maskdpo_ray.config import WorkersConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.progress import clock, say
from maskdpo_ray.training.worker import TrainingJob, Workers, train

CHECKPOINTS = "checkpoints"


def run_training(
    job: TrainingJob, workers: WorkersConfig, log_every: float = 15.0
) -> dict[str, Any]:
    """Train, or go on where the last session in ``job.output`` stopped.

    Writes ``model/`` (Hugging Face folder), ``metrics.jsonl`` (a line per step) and
    ``checkpoints/`` (Ray Train's run directory) to ``job.output``.

    Args:
        job: what to train; its ``output`` must be reachable from all nodes.
        log_every: seconds between progress lines.

    Returns:
        The metrics of the last step.

    Raises:
        UserError: what a person must mend: unusable pairs or model, a loss that is not finite.
    """
    # A report waits for the controller's next look; a failed group for its successor's start.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    _tell_of_shortage(workers)
    board = _Board.options(num_cpus=0).remote()
    trainer = TorchTrainer(
        _train_in_worker,
        train_loop_config={"job": job, "board": board},
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.workers,
            use_gpu=workers.gpus > 0,
            resources_per_worker={
                "CPU": workers.cpus,
                **({"GPU": workers.gpus} if workers.gpus else {}),
                **workers.resources,
            },
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=job.output.uri,
            failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=job.settings.keep_checkpoints),
        ),
    )
    with _ProgressLine(board, log_every):
        result = trainer.fit()
    outcome = result.return_value
    if "mend" in outcome:
        raise UserError(outcome["mend"])
    _remove_orphans(result)
    return outcome["metrics"]


def _tell_of_shortage(workers: WorkersConfig) -> None:
    """Ray Train waits for missing resources for ever and says nothing; nodes may yet join."""
    one = {"CPU": workers.cpus, "GPU": workers.gpus, **workers.resources}
    have = ray.cluster_resources()
    short = [
        f"{amount * workers.workers:g} {name} (there are {have.get(name, 0):g})"
        for name, amount in one.items()
        if amount * workers.workers > have.get(name, 0)
    ]
    if short:
        say(f"training waits for nodes: {workers.workers} workers need {', '.join(short)}")


def _remove_orphans(result: ray.train.Result) -> None:
    """Delete what a killed worker left of a checkpoint: Ray Train never registered it."""
    registered = {Path(checkpoint.path).name for checkpoint, _ in result.best_checkpoints}
    selector = pafs.FileSelector(result.path)
    for info in result.filesystem.get_file_info(selector):
        is_checkpoint = not info.is_file and info.base_name.startswith("checkpoint_")
        if is_checkpoint and info.base_name not in registered:
            result.filesystem.delete_dir(info.path)


def _train_in_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Runs in every Ray Train worker.

    A UserError is raised on all workers alike and would be raised again after every restart, so
    it is handed to the driver as a result instead of failing the worker group.
    """
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # two lines per report and worker
    context = ray.train.get_context()
    workers = Workers(
        rank=context.get_world_rank(),
        count=context.get_world_size(),
        checkpoints=_checkpoints,
        save=_save,
        progress=lambda line: config["board"].put.remote(line),
    )
    try:
        return {"metrics": train(config["job"], workers)}
    except UserError as error:
        return {"mend": str(error)}


def _checkpoints() -> list[Callable[[], AbstractContextManager[Path]]]:
    reported = ray.train.get_all_reported_checkpoints()
    return [partial(_opened, entry.checkpoint) for entry in reversed(reported)]


def _save(write: Callable[[Path], None], metrics: dict[str, Any]) -> None:
    """Workers write their parts into folders of their own; Ray Train merges and registers them."""
    with tempfile.TemporaryDirectory(prefix="maskdpo-checkpoint-") as folder:
        write(Path(folder))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


@contextmanager
def _opened(checkpoint: ray.train.Checkpoint) -> Iterator[Path]:
    """The checkpoint where it lies, or a copy on this node of one in an object store."""
    with checkpoint.as_directory() as folder:
        yield Path(folder)


@ray.remote
class _Board:
    """The newest metrics, put by rank 0 and read by the driver."""

    def __init__(self) -> None:
        self._line: dict[str, Any] | None = None

    def put(self, line: dict[str, Any]) -> None:
        self._line = line

    def get(self) -> dict[str, Any] | None:
        return self._line


class _ProgressLine:
    """Prints where training is, every few seconds while it moves."""

    def __init__(self, board: Any, every: float) -> None:
        self._board = board
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._look()

    _shown = 0
    _first: tuple[int, float] | None = None

    def _look(self) -> None:
        line = ray.get(self._board.get.remote())
        if line is None or line["step"] == self._shown:
            return
        self._shown, now = line["step"], time.monotonic()
        self._first = self._first or (line["step"], now)
        done, elapsed = line["step"] - self._first[0], now - self._first[1]
        left = (line["total_steps"] - line["step"]) * elapsed / done if done else None
        say(
            f"train {line['step']}/{line['total_steps']}  loss {line['loss']:.4f}  "
            f"accuracy {line['rewards/accuracies']:.2f}  lr {line['learning_rate']:.2e}  "
            f"{line['seconds']:.2f} s/step" + (f", {clock(left)} left" if left else "")
        )
