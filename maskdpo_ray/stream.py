"""Stages of rows as one streaming Ray Data execution.

Every stage is a *processor*: an object that takes a block of rows and returns, in the same order,
each row's result or the ``RowRejected`` that stopped it. Here processors become actor pools that
feed one another: while one question is being annotated the next is being sampled. Each block is
durable as soon as its stage finished it, and a later run starts from what is durable.

Ray promises that outputs reach the next stage exactly once, but a lost actor's blocks come again;
so blocks are written under names that depend on their ids alone, and one that is durable already
is read back instead of worked on.
"""

import asyncio
import dataclasses
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayActorError
from ray.util.debug import disable_log_once_globally

from maskdpo_ray.config import PoolConfig, ResourcesConfig
from maskdpo_ray.devices import hide_gpus
from maskdpo_ray.digests import fingerprint
from maskdpo_ray.engine import engine
from maskdpo_ray.engine.logs import native_output_to
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.progress import Progress, say
from maskdpo_ray.rundir import Block, StageStore
from maskdpo_ray.storage import usable

READERS = 2  # far ahead of any engine
FEW_BLOCKS = 64  # one reader's work: each is a process, and seconds until it runs
START_ATTEMPTS = 3
ENOUGH = 2  # times that a stage can hold what is not of the rows before it, once those stand
NEVER_RAN = "The actor never ran"  # Ray's words; no field says it
# Left in a stage's folder by its actors: why one cannot start, and what one died of.
FAILURE, DEATH = "failure.txt", "death.txt"


class Processor(Protocol):
    """What a stage does to a block of rows. Several calls run at once on one event loop. A question
    may become several rows that name it (``records.QUESTION_ID``)."""

    async def __call__(self, rows: list[dict]) -> list[dict | list[dict] | RowRejected]: ...


@dataclass(frozen=True)
class StreamStage:
    """One stage of the stream.

    Attributes:
        store: where its rows become durable.
        build: makes the processor, inside the actor; it holds the heavy imports.
        pool: its actors.
        column: what names a row to this stage, and becomes the ``id`` of its result.
        shared: the store also holds rows of other runs of this stage (a cache).
    """

    store: StageStore
    build: Callable[[], Processor]
    pool: PoolConfig
    column: str = "id"
    shared: bool = False


@dataclass(frozen=True)
class _Task:
    """A stage of this run: where its rows come from, those to do now, how many are done."""

    stage: StreamStage
    upstream: StageStore
    pending: list[Block]
    done: int


def start_ray(resources: ResourcesConfig) -> None:
    """Connect to the cluster of ``RAY_ADDRESS`` (set inside a submitted job), or start Ray here."""
    if ray.is_initialized():
        return
    # Ray's core writes of its own workings past every logger; that stays in its log files.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    attempts = 1
    with native_output_to(os.devnull, descriptor=2):
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            # No process for every logical CPU in advance: they cost seconds and most stay idle.
            os.environ.setdefault("RAY_enable_worker_prestart", "0")
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
            cpus = max(resources.local_cpus, os.cpu_count() or 1)
            # Else Ray warns that there are more processes than four for every real CPU.
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(cpus))
            # Logical CPUs beyond the real ones: pools that hold every CPU leave none for Ray
            # Data's readers and the stream would wait for ever without a word.
            attempts = _start_here(
                address="local",
                num_cpus=cpus,
                object_store_memory=resources.object_store_mib * 2**20,
                include_dashboard=False,
                **quiet,
            )
    if attempts > 1:
        say(f"Ray started at attempt {attempts}: this machine is busy")


def share_ray(resources: ResourcesConfig, drivers: int) -> None:
    """One Ray for drivers that this process starts: the cluster of ``RAY_ADDRESS``, or one that
    is started here with room for so many of them at once."""
    if os.environ.get("RAY_ADDRESS"):
        return
    scaled = {key: drivers * getattr(resources, key) for key in ("local_cpus", "object_store_mib")}
    start_ray(resources.model_copy(update=scaled))
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def _start_here(**settings: Any) -> int:
    """Start Ray on this machine; how often that was tried.

    Ray 2.60 gives its dashboard agent, a Python process, 15 s to start, and no setting changes
    that; on a busy machine it may need longer, and Ray then fails as a whole (ray-project/ray
    issue 65983).
    """
    for attempt in itertools.count(1):
        try:
            ray.init(**settings)
            return attempt
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS:
                raise
            ray.shutdown()


def run_stream(
    stages: list[StreamStage], source: StageStore, resources: ResourcesConfig, versions: dict
) -> None:
    """Bring every row of ``source`` through ``stages``; rows that are durable already stay.

    Raises:
        UserError: an actor could not start or go on, with its reason.
        RuntimeError: actors died more often than they may, or rows were lost.
    """
    for stage in stages:
        for line in stage.store.drop_damaged(whole=stage.shared):
            say(line)
    upstreams = [source, *(stage.store for stage in stages[:-1])]
    seconds = _work_off(stages, upstreams, resources, versions)
    # What is redone may be another row this time, or be rejected: what was made of it before goes,
    # stage by stage.
    passes = itertools.count()
    while line := _settle(stages, upstreams, seconds, versions):
        if next(passes) > ENOUGH * len(stages):
            raise RuntimeError(f"what is done again is never the same: {line}")
        say(line)
        for name, more in _work_off(stages, upstreams, resources, versions).items():
            seconds[name] = seconds.get(name, 0.0) + more


def _work_off(
    stages: list[StreamStage],
    upstreams: list[StageStore],
    resources: ResourcesConfig,
    versions: dict,
) -> dict[str, float]:
    """Do what is not done yet; seconds that each stage took."""
    tasks = [_task(stage, upstream) for stage, upstream in zip(stages, upstreams, strict=True)]
    first = next((n for n, task in enumerate(tasks) if task.pending), None)
    if first is None:
        return {}
    start_ray(resources)
    _check_room(stages[first:], resources)
    for stage in stages[first:]:
        stage.store.folder.remove(FAILURE)
        stage.store.folder.remove(DEATH)
        stage.store.begin(versions)
    return _execute(tasks[first:], resources)


def _settle(
    stages: list[StreamStage],
    upstreams: list[StageStore],
    seconds: dict[str, float],
    versions: dict,
) -> str | None:
    """Complete the stages up to the first that holds rows of what is no longer there; what it
    dropped, in words."""
    for stage, upstream in zip(stages, upstreams, strict=True):
        if stage.store.manifest() is None:  # no row came to it, now or before
            stage.store.begin(versions)
        of = seconds.pop(stage.store.name, 0.0)
        if line := stage.store.settle(upstream.coming(stage.column), of, stage.shared):
            seconds[stage.store.name] = of
            return line
    return None


def _task(stage: StreamStage, upstream: StageStore) -> _Task:
    finished = set.union(*stage.store.finished())
    pending = upstream.blocks(without=finished, column=stage.column)
    done = len(finished)
    if stage.shared:  # what upstream has and is not to do; a shared store is never fed by a stream
        everything = upstream.blocks(without=set(), column=stage.column)
        done = _rows(everything) - _rows(pending)
    return _Task(stage, upstream, pending, done)


def _rows(blocks: Iterable[Block]) -> int:
    return sum(len(block.ids) for block in blocks)


def _execute(tasks: list[_Task], resources: ResourcesConfig) -> dict[str, float]:
    """Run the stages; seconds until each finished its last row."""
    _quiet_context()
    rows = None
    for n, (stage, upstream, blocks) in enumerate((t.stage, t.upstream, t.pending) for t in tasks):
        inputs = [rows] if rows is not None else []
        if blocks:
            inputs.append(_read(upstream, blocks))
        merged = inputs[0].union(*inputs[1:]) if len(inputs) > 1 else inputs[0]
        least, most = stage.pool.size
        rows = merged.map_batches(
            StageActor,
            fn_constructor_kwargs={
                "build": stage.build,
                "store": stage.store,
                "column": stage.column,
                "forward": n + 1 < len(tasks),
                "group": resources.questions_per_block,
                "gpus": stage.pool.gpus,
            },
            # A size is a must where GPUs are asked for. Full blocks stay as they are; what is
            # left of others is put together.
            batch_size=resources.questions_per_block,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=least,
                max_size=most,
                max_concurrent_calls_per_actor=stage.pool.blocks_in_flight,
            ),
            num_cpus=stage.pool.cpus,
            num_gpus=stage.pool.gpus or None,
            resources=stage.pool.resources or None,
            ray_remote_args_fn=partial(_finite_restarts, stage.pool.max_restarts),
        )
    stages = [task.stage for task in tasks]
    done = {task.stage.store: task.done for task in tasks}
    total = tasks[0].done + _rows(tasks[0].pending)
    with Progress(done, total, partial(_lacking, stages)) as progress:
        try:
            for _ in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                pass
        except Exception as error:
            if reason := _reason(stages, error):
                raise reason from error
            raise
    return progress.seconds


def _reason(stages: list[StreamStage], error: Exception) -> Exception | None:
    """What the actors said of it. One that gives up in its work says so by its error. One that
    cannot start, or dies, reaches the driver as one of many Ray errors, its own words deep inside
    or cut off: it leaves them in a file."""
    if isinstance(cause := getattr(error, "cause", None), UserError):
        return UserError(str(cause).partition("\n")[0])  # below it Ray Data tells of its settings
    for stage in stages:
        if stage.store.folder.exists(FAILURE):
            reason = stage.store.folder.read(FAILURE).decode()
            return UserError(f"stage {stage.store.name} {reason}")
    if not isinstance(error, RayActorError) or error.actor_init_failed:
        return None  # Ray's own words hold the reason
    if NEVER_RAN in str(error):
        # Ray asks the driver whether it still wants an actor, and takes no answer for a no.
        return UserError(
            "Ray gave an actor up before it ran: the cluster cannot reach this driver, or this "
            "driver refuses it because the two authenticate differently; set RAY_AUTH_MODE (and "
            "RAY_AUTH_TOKEN) here as on the cluster's nodes, and open the nodes' ports to this "
            "machine"
        )
    for stage in stages:
        if stage.store.folder.exists(DEATH):
            return RuntimeError(
                f"stage {stage.store.name}: an actor died for good after "
                f"{stage.pool.max_restarts} restarts (max_restarts); the last time of: "
                f"{stage.store.folder.read(DEATH).decode()}"
            )
    return None


def _finite_restarts(most: int) -> dict[str, int]:
    """Ray Data restarts actors for ever unless told otherwise; a broken one must end the run.

    Restarts bound it: a task is tried again as long as its actor lives or is restarted. Bounded by
    themselves, its tries are used up on a node that is gone before the cluster notices.
    """
    return {"max_restarts": most, "max_task_retries": -1}


def _read(store: StageStore, blocks: list[Block]) -> ray.data.Dataset:
    """A dataset of these blocks, one Ray block each, read where they are needed."""
    items = [dataclasses.asdict(block) for block in blocks]

    def read(table: pa.Table) -> pa.Table:
        with usable(store.folder):
            return pa.concat_tables([store.read_block(Block(**item)) for item in table.to_pylist()])

    listing = ray.data.from_items(items, override_num_blocks=len(items))
    readers = READERS if len(items) > FEW_BLOCKS else 1
    return listing.map_batches(
        read, batch_size=None, batch_format="pyarrow", num_cpus=0.5, concurrency=readers
    )


class StageActor:
    """A processor inside a Ray Data actor."""

    def __init__(
        self,
        build: Callable[[], Processor],
        store: StageStore,
        column: str,
        forward: bool,
        group: int,
        gpus: float,
    ) -> None:
        if not gpus:
            hide_gpus()
        self.store, self.column, self.forward, self.group = store, column, forward, group
        engine.last_words.append(lambda reason: store.folder.write(DEATH, reason.encode()))
        try:
            self.processor = build()
        except UserError as error:
            store.folder.write(FAILURE, f"cannot start: {error}".encode())
            raise

    async def __call__(self, block: pa.Table) -> pa.Table:
        try:
            return self._passed_on(await self._finished(block))
        except UserError as error:  # not of these rows: storage or an endpoint that stays away
            raise UserError(f"stage {self.store.name} cannot go on: {error}") from error

    async def _finished(self, block: pa.Table) -> pa.Table:
        rows = block.to_pylist()
        ids = [row[self.column] for row in rows]
        # Another column than the id is a digest itself.
        of = {row["id"]: fingerprint(row) for row in rows} if self.column == "id" else {}
        # A block comes again when its output was lost on the way; what is durable stands.
        finished = await self._stored(self.store.block, ids, of)
        return await self._work(rows, ids, of) if finished is None else finished

    async def _work(self, rows: list[dict], ids: list[str], of: dict[str, str]) -> pa.Table:
        outcomes = await self.processor(rows)
        return await self._stored(self.store.write_outcomes, ids, outcomes, self.group, of)

    async def _stored(self, use: Callable[..., Any], *arguments: Any) -> Any:
        # In a thread: meanwhile the loop goes on with the actor's other blocks.
        with usable(self.store.folder):
            return await asyncio.to_thread(use, *arguments)

    def _passed_on(self, table: pa.Table) -> pa.Table:
        # The last stage passes on nothing but names: its rows are durable and nobody waits.
        return table if self.forward else table.select(["id"])


def _check_room(stages: Iterable[StreamStage], resources: ResourcesConfig) -> None:
    """Refuse pools that would leave Ray Data no CPU to read with: it would wait without a word."""
    if not resources.autoscale and (lacking := _lacking(stages)):
        raise UserError(
            f"{lacking}: lower resources.*.actors, cpus or gpus, or set resources.autoscale=true "
            "where nodes join on demand"
        )


def _lacking(stages: Iterable[StreamStage]) -> str | None:
    """What the cluster has too little of for these stages, in words."""
    have = ray.cluster_resources()
    need: dict[str, float] = {"CPU": 1.0}
    for stage in stages:
        least, _ = stage.pool.size
        for name, amount in stage.pool.asks.items():
            need[name] = need.get(name, 0.0) + least * amount
    short = {name: amount for name, amount in need.items() if amount > have.get(name, 0.0)}
    wants = ", ".join(f"{a:g} {n} (there are {have.get(n, 0):g})" for n, a in short.items())
    return f"the smallest pools and one reader need {wants}" if wants else None


def _quiet_context() -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.max_errored_blocks = 0  # a failing block fails the job: blocks are never dropped
    context.raise_original_map_exception = True  # a wrapped one does not bring its cause along
    disable_log_once_globally()
    # What fails is raised; Ray Data's log would tell it a second time, as a fault of Ray's.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # The only way to bound restarts in this version; it names no successor.
    warnings.filterwarnings("ignore", message=".ray_remote_args_fn. is deprecated")
