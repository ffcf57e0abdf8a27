"""The training stage: the worker loop in Ray Train workers, checkpoints through Ray Train.

Ray Train starts the workers again when one is lost, with as many as there are nodes for, and each
start goes on from the newest checkpoint that is whole. What is whole, the checkpoints' own seals
say: Ray Train's list of them ends with the controller that keeps it.
"""

import errno
import logging
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from maskdpo_ray.config import WorkersConfig
from maskdpo_ray.devices import hide_gpus
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.errors import UserError
from maskdpo_ray.progress import clock, say
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.step import gathered
from maskdpo_ray.training.worker import TrainingJob, Workers, train

CHECKPOINTS = "checkpoints"
RAYS_LIST = "checkpoint_manager_snapshot.json"  # Ray Train's, beside the checkpoints
USELESS = {"DatasetsCallback", "PlacementGroupCleanerCallback"}  # of Ray Train's helpers

log = logging.getLogger(__name__)


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
        The metrics of the last step, and ``weights``, the digest of the trained ones.

    Raises:
        UserError: what a person must mend: unusable pairs or model, a loss that is not finite, too
            little memory or disk.
    """
    # Imports torch, which the board's process has no use for.
    from ray.train.torch import TorchConfig, TorchTrainer

    # A report waits for the controller's next look. After a node is lost, workers are placed on it
    # once more until this time is over; nodes that have yet to start are not waited for so.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    _tell_of_shortage(workers)
    checkpoints = job.output / CHECKPOINTS
    _forget_unusable_list(checkpoints)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = _Board.options(num_cpus=0, scheduling_strategy=here).remote()
    trainer = TorchTrainer(
        _train_in_worker,
        train_loop_config={
            "job": job,
            "board": board,
            "gpus": workers.gpus,
            "directory": os.getcwd(),
        },
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.workers,
            elastic_resize_monitor_interval_s=workers.resize_seconds,
            use_gpu=workers.gpus > 0,
            resources_per_worker={
                "CPU": workers.cpus,
                **({"GPU": workers.gpus} if workers.gpus else {}),
                **workers.resources,
            },
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=job.output.path("").rstrip("/"),
            storage_filesystem=job.output.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=job.settings.keep_checkpoints),
        ),
    )
    _leave_out(trainer, USELESS)
    with _ProgressLine(board, log_every), _interrupt_handler_kept(), _shortage_told():
        result = trainer.fit()
    outcome = result.return_value
    if "mend" in outcome:
        raise UserError(outcome["mend"])
    _remove_orphans(checkpoints, result)
    return outcome["metrics"]


def _leave_out(trainer: Any, helpers: set[str]) -> None:
    """Ray Train starts a process that hands out data sets, of which there are none here, and one
    that frees what a dead controller held, which here ends with the driver in any case.

    The latter asks the dashboard whether the controller lives. In a Ray without one, as a run
    starts it for itself, it waits in vain, and the end of a short training up to twelve seconds for
    it; or it asks another Ray of this machine, which knows of no such controller.
    """
    create = trainer._create_default_callbacks
    trainer._create_default_callbacks = lambda: [
        each for each in create() if type(each).__name__ not in helpers
    ]


@contextmanager
def _interrupt_handler_kept() -> Iterator[None]:
    """Ray Train leaves its own handler behind, under which a later Ctrl-C exits with status 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _shortage_told() -> Iterator[None]:
    """A worker that lacks room fails again at every start; what the last one lacked is for a person
    to mend."""
    try:
        yield
    except ray.train.WorkerGroupError as error:
        if lacked := next(filter(None, map(_lacked, error.worker_failures.values())), None):
            raise UserError(f"training ended for want of room: {lacked}") from error
        raise


def _lacked(error: BaseException) -> str | None:
    """What a failure says of memory or disk, and what to change; None of any other failure."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"{first}: lower training.micro_batch_tokens, set "
            "training.gradient_checkpointing=true, or take more workers with training.zero_stage=3"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{first}: free some of it, or point TMPDIR of the training nodes to a larger disk"
    return None


def _tell_of_shortage(workers: WorkersConfig) -> None:
    """Ray Train waits for missing resources for ever and says nothing; nodes may yet join."""
    have = ray.cluster_resources()
    least, _ = workers.size
    short = [
        f"{amount * least:g} {name} (there are {have.get(name, 0):g})"
        for name, amount in workers.asks.items()
        if amount * least > have.get(name, 0)
    ]
    if short:
        say(f"training waits for nodes: {least} workers need {', '.join(short)}")


def _found(checkpoints: Folder) -> list[str]:
    """All that stand there, whole or not, oldest first: their names begin with their step."""
    return [name for name in checkpoints.names() if re.match(r"checkpoint_\d", name)]


def _forget_unusable_list(checkpoints: Folder) -> None:
    """Ray Train writes its list in place and refuses to start with half a one, or with one that
    names a checkpoint which is gone."""
    listed = _listed(checkpoints)
    if listed is None or not listed <= set(_found(checkpoints)):
        say(f"{checkpoints}/{RAYS_LIST} does not fit the checkpoints there: it is made anew")
        checkpoints.remove(RAYS_LIST)


def _listed(checkpoints: Folder) -> set[str] | None:
    """Names in Ray Train's list; None where it cannot be read."""
    if not checkpoints.exists(RAYS_LIST):
        return set()
    try:
        listed = checkpoints.read_json(RAYS_LIST)["checkpoint_results"]
        return {each["checkpoint_dir_name"] for each in listed}
    except (ValueError, KeyError):
        return None


def _discard(checkpoints: Folder, names: list[str]) -> None:
    """Delete checkpoints that are not whole: every kill while one is written leaves a half. What
    Ray Train lists stays, for it counts these and deletes them itself."""
    listed = _listed(checkpoints)
    for name in names if listed is not None else []:
        if name not in listed:
            _delete(checkpoints, name)


def _remove_orphans(checkpoints: Folder, result: ray.train.Result) -> None:
    """Delete what no retention counts: whole checkpoints that Ray Train did not come to list, and
    what could not be deleted before. The newest stays in any case."""
    listed = {Path(checkpoint.path).name for checkpoint, _ in result.best_checkpoints}
    for name in _found(checkpoints)[:-1]:
        if name not in listed:
            _delete(checkpoints, name)


def _delete(checkpoints: Folder, name: str) -> None:
    """A checkpoint that cannot be deleted takes up room and harms nothing."""
    try:
        checkpoints.filesystem.delete_dir(checkpoints.path(name))
    except OSError as error:
        log.warning("checkpoint %s cannot be removed: %s", name, error)


def _train_in_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Runs in every Ray Train worker.

    A UserError is raised on all workers alike and would be raised again after every restart, so
    it is handed to the driver as a result instead of failing the worker group.
    """
    if os.path.isdir(config["directory"]):  # Ray Train has moved to one of its own
        os.chdir(config["directory"])
    if not config["gpus"]:
        hide_gpus()
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # two lines per report and worker
    context = ray.train.get_context()
    job, board = config["job"], config["board"]
    if context.get_world_rank() == 0:
        logging.getLogger("maskdpo_ray").addHandler(_ToDriver(board))
    scratch = f"maskdpo-checkpoint-{fingerprint(job.output.uri)}-"
    for left_by_a_killed_worker in Path(tempfile.gettempdir()).glob(f"{scratch}*"):
        shutil.rmtree(left_by_a_killed_worker, ignore_errors=True)
    workers = Workers(
        rank=context.get_world_rank(),
        count=context.get_world_size(),
        checkpoints=partial(
            _checkpoints,
            job.output / CHECKPOINTS,
            context.get_world_rank(),
            context.get_world_size(),
        ),
        save=partial(_save, scratch),
        progress=lambda line: board.put.remote(line),
        tell=lambda line: board.warn.remote(line),
        warned=_Warnings(),
        discard=partial(_discard, job.output / CHECKPOINTS),
    )
    try:
        return {"metrics": train(job, workers)}
    except UserError as error:
        return {"mend": str(error)}


def _checkpoints(
    folder: Folder, rank: int, workers: int
) -> dict[str, Callable[[], AbstractContextManager[Path]]]:
    """Newest first; the same on all workers, who look into them together.

    They get the very objects of rank 0: under one object's id, the workers of a node share one
    copy of what lies in an object store.
    """
    names = reversed(_found(folder)) if rank == 0 else ()
    own = [ray.train.Checkpoint(folder.path(name), folder.filesystem) for name in names]
    return {Path(each.path).name: partial(_opened, each) for each in gathered(own, workers)}


def _save(scratch: str, write: Callable[[Path], None], metrics: dict[str, Any]) -> None:
    """Workers write their parts into folders of their own; Ray Train merges and registers them."""
    with tempfile.TemporaryDirectory(prefix=scratch) as folder:
        write(Path(folder))
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"checkpoint_{metrics['step']:08}_{int(time.time())}",
        )


class _Warnings:
    """Nodes of the workers that Ray says will be taken away: true once for each."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self) -> bool:
        info = ray.train.get_preemption_info()
        news = set(info.preempted_node_ids) - self._known if info else set()
        if news:
            log.warning("node %s will be taken away: saving a checkpoint", ", ".join(sorted(news)))
        self._known |= news
        return bool(news)


@contextmanager
def _opened(checkpoint: ray.train.Checkpoint) -> Iterator[Path]:
    """The checkpoint where it lies, or a copy on this node of one in an object store."""
    with checkpoint.as_directory() as folder:
        yield Path(folder)


@ray.remote
class _Board:
    """What rank 0 has to tell the driver: the newest metrics, and lines to read."""

    def __init__(self) -> None:
        self._line: dict[str, Any] | None = None
        self._warnings: list[str] = []

    def put(self, line: dict[str, Any]) -> None:
        self._line = line

    def warn(self, text: str) -> None:
        self._warnings.append(text)

    def take(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The metrics, and the warnings since the last call."""
        warnings, self._warnings = self._warnings, []
        return self._line, warnings


class _ToDriver(logging.Handler):
    """Carries warnings out of a worker, whose own output nobody reads."""

    def __init__(self, board: Any) -> None:
        super().__init__(logging.WARNING)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        self._board.warn.remote(record.getMessage())


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
        line, warnings = ray.get(self._board.take.remote())
        for warning in warnings:
            say(warning)
        if line is None or line["step"] == self._shown:
            return
        now = time.monotonic()
        if self._first is None or line["step"] < self._shown:  # the latter after a restart
            self._first = (line["step"], now)
        self._shown = line["step"]
        done, elapsed = line["step"] - self._first[0], now - self._first[1]
        left = (line["total_steps"] - line["step"]) * elapsed / done if done else None
        say(
            f"train {line['step']}/{line['total_steps']}  loss {line['loss']:.4f}  "
            f"accuracy {line['rewards/accuracies']:.2f}  lr {line['learning_rate']:.2e}  "
            f"workers {line['workers']}  {line['seconds']:.2f} s/step"
            + (f", {clock(left)} left" if left else "")
        )
