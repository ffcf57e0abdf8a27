"""What every training worker does: plan, learn, save, export.

Nothing here knows Ray. ``stage.py`` runs it in Ray Train workers and hands in what it needs of
them: rank, number of workers, the checkpoints there are, how to save one.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskdpo_ray.config import ModelConfig, TrackingConfig, TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.imports import lasting_imports
from maskdpo_ray.records import Pair, Question
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.batch_plan import global_batch, steps_per_epoch
from maskdpo_ray.training.batches import TrainingPair, training_pairs
from maskdpo_ray.training.schedule import learning_rate
from maskdpo_ray.training.step import examine, gathered, learn
from maskdpo_ray.training.trackers import Trackers, open_trackers

if TYPE_CHECKING:
    from maskdpo_ray.training.engine import Engine
    from maskdpo_ray.training.logprobs import LogProbModel
    from maskdpo_ray.training.samples import Samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingJob:
    """One training run. Travels to the workers, so it is small and picklable."""

    model: ModelConfig
    settings: TrainingConfig
    seed: int
    pairs: Callable[[], Iterable[Pair]]
    references: Callable[[], Iterable[Mapping[str, Any]]]  # rows of REFERENCE_SCHEMA
    output: Folder  # gets metrics.jsonl and model/
    tracking: TrackingConfig = TrackingConfig(report_to=[])
    origin: dict[str, Any] = field(default_factory=dict)  # of the pairs, for the model card
    questions: Callable[[], Iterable[Question]] | None = None  # of the pairs, with their documents
    examiner: Callable[[], Any] | None = None  # makes what annotates answers here, with no engine


@dataclass(frozen=True)
class Workers:
    """This worker among its fellows, and how a checkpoint is found and kept."""

    rank: int
    count: int
    checkpoints: Callable[[], Mapping[str, Callable[[], AbstractContextManager[Path]]]]
    """Those there are by name, newest first; each opens as a local folder."""
    save: Callable[[Callable[[Path], None], dict[str, Any]], None]
    """Calls its argument with an empty folder and makes what stands there durable."""
    progress: Callable[[dict[str, Any]], None]
    """Told the metrics of every step, on rank 0."""
    warned: Callable[[], bool] = lambda: False
    """Whether one of them is about to lose its node, once per warning. Asked by all workers after
    every step; all get one answer."""
    tell: Callable[[str], None] = lambda line: None
    """Told on rank 0 what a person may want to read on the way."""
    discard: Callable[[list[str]], None] = lambda names: None
    """Told by rank 0 which checkpoints were passed over, while no worker writes one."""


def train(job: TrainingJob, workers: Workers) -> dict[str, Any]:
    """Train to the end, from the newest sound checkpoint if there is one; export the policy.

    Returns:
        The metrics of the last step; on rank 0 also ``weights``, the digest of what was exported.

    Raises:
        UserError: unusable pairs, a model that cannot be loaded, or a loss that is not finite.
    """
    with lasting_imports():
        import torch

        from maskdpo_ray.training import checkpoint

    settings = job.settings
    torch.manual_seed(job.seed)
    pairs, held_out, model = _together(lambda: _load(job), workers)
    identity = _identity(job, pairs)
    engine, history = _start(job, workers, model, identity)
    samples = _together(lambda: _samples(job, workers, held_out or pairs, len(history)), workers)
    begun = _sampled_before(samples, engine, len(history))
    metrics_log = MetricsLog(job.output, history) if workers.rank == 0 else None
    trackers = _together(
        lambda: _trackers(job, identity, begun + history) if workers.rank == 0 else None, workers
    )
    with _steps_kept(metrics_log, trackers):
        for line in _steps(job, workers, engine, pairs, held_out, done=len(history)):
            last = line["step"] == line["total_steps"]
            if samples is not None and samples.due(line["step"], last):
                line |= samples.take(engine, line["step"])
            history.append(line)
            if metrics_log is not None:
                metrics_log.add(line)
                trackers.add(line)
                workers.progress(line)
            due = line["step"] % settings.checkpoint_every == 0 or last
            if workers.warned() or due:
                position = checkpoint.Position(line["step"], identity, history)
                if metrics_log is not None:
                    metrics_log.write_all()
                    trackers.flush()
                workers.save(
                    lambda folder, at=position: checkpoint.save_part(
                        engine, folder, workers.rank, workers.count, at
                    ),
                    line,
                )
        counts = {"pairs learnt from": len(pairs), "pairs held out": len(held_out)}
        outcome = history[-1] | _export(job, workers, engine, counts, history[-1])
        if workers.rank == 0:
            trackers.close()
    engine.close()
    return outcome


def _start(
    job: TrainingJob, workers: Workers, model: "LogProbModel", identity: str
) -> "tuple[Engine, list[dict[str, Any]]]":
    """The engine, as the newest sound checkpoint left it if there is one, and the steps it did."""
    with lasting_imports():
        from maskdpo_ray.training import checkpoint
        from maskdpo_ray.training.engine import Engine

    model.train()
    with _newest_sound(workers, identity) as resumed:
        if resumed is not None:
            checkpoint.load_weights(model.policy, resumed)
        engine = Engine(model, job.settings, job.model.dtype)
        if resumed is None:
            # Before any activation: made in the first step they would stand among what it leaves.
            engine.start_moments(0)
            return engine, []
        position = checkpoint.read_position(resumed)
        checkpoint.load_state(engine, resumed, position.step)
        return engine, position.history


def _steps(
    job: TrainingJob,
    workers: Workers,
    engine: "Engine",
    pairs: list[TrainingPair],
    held_out: list[TrainingPair],
    done: int,
) -> Iterator[dict[str, Any]]:
    """Learn, step by step, to the end; the metrics of every step."""
    settings, packed = job.settings, engine.module.packed
    epoch_steps = steps_per_epoch(len(pairs), settings.batch_size)
    total = min(epoch_steps * settings.epochs, settings.max_steps or math.inf)
    tokens = np.array([pair.tokens(packed) for pair in pairs])
    held_out_tokens = np.array([pair.tokens(packed) for pair in held_out])
    for step in range(done, total):
        began = time.perf_counter()
        rate = learning_rate(
            step, total, settings.learning_rate, settings.warmup_ratio, settings.min_lr_ratio
        )
        batch = global_batch(step, len(pairs), settings.batch_size, job.seed)
        metrics = learn(engine, pairs, batch, tokens, settings, workers, rate)
        seconds = time.perf_counter() - began
        last = step + 1 == total
        if held_out and (last or (step + 1) % settings.eval_every == 0):
            metrics |= examine(engine, held_out, held_out_tokens, settings, workers)
        learnt = sum(pairs[index].tokens(packed=True) for index in batch)
        yield {
            "step": step + 1,
            "total_steps": total,
            "epoch": (step + 1) / epoch_steps,
            **metrics,
            "workers": workers.count,
            "seconds": seconds,
            "tokens_per_second": float(learnt) / seconds,
            "memory_gib": engine.peak_memory() / 2**30,
        }


def _samples(
    job: TrainingJob, workers: Workers, pairs: list[TrainingPair], done: int
) -> "Samples | None":
    if job.settings.sample_every is None:
        return None
    from maskdpo_ray.training.samples import Samples

    return Samples(job, workers, pairs, done)


def _sampled_before(samples: "Samples | None", engine: "Engine", done: int) -> list[dict[str, Any]]:
    """What the policy said before the first step, as a line of metrics, on rank 0."""
    if samples is None:
        return []
    if not done:
        samples.take(engine, 0)
    first = samples.first()
    return [first] if first else []


def _export(
    job: TrainingJob,
    workers: Workers,
    engine: "Engine",
    counts: dict[str, int],
    last: dict[str, Any],
) -> dict[str, Any]:
    """Rank 0 writes the trained policy; the digest of its weights. All workers gather them."""
    from maskdpo_ray.training.card import model_card
    from maskdpo_ray.training.export import gather_weights, weights_digest, write_model

    adapters = job.settings.lora is not None
    weights = gather_weights(engine, keep=workers.rank == 0, frozen=not adapters)
    if workers.rank != 0:
        return {}
    card = model_card(job.model, job.settings, job.seed, counts | job.origin, last)
    policy = engine.module.policy
    write_model(policy, weights, job.model, job.settings.lora, job.output, card)
    return {"weights": weights_digest(weights)}


def _trackers(job: TrainingJob, identity: str, history: list[dict[str, Any]]) -> Trackers:
    settings = {**job.settings.model_dump(mode="json"), "seed": job.seed, "model": job.model.path}
    name = "/".join(job.output.uri.rstrip("/").split("/")[-3:-1])  # run directory and system
    return open_trackers(job.tracking, job.output, name, identity, settings, history)


@contextmanager
def _steps_kept(metrics_log: "MetricsLog | None", trackers: Trackers | None) -> Iterator[None]:
    """Training that fails inside leaves the steps it did, and trackers that say so."""
    try:
        yield
    except BaseException:
        if metrics_log is not None:
            try:
                metrics_log.write_all()
            except Exception as error:  # what stopped training is to be told, not this
                log.warning("the last steps may be missing in metrics.jsonl: %s", error)
            trackers.close(failed=True)
        raise


def _load(job: TrainingJob) -> "tuple[list[TrainingPair], list[TrainingPair], LogProbModel]":
    """The pairs to learn from and those held out, each in the order of their ids, and the policy
    as it was before training, where the engine will have it."""
    from maskdpo_ray.training.model import longest_input

    references = {row["id"]: row for row in job.references()}
    rows = list(job.pairs())
    topics = held_out_topics((row["topic"] for row in rows), job.settings.holdout, job.seed)
    learnt = [row for row in rows if row["topic"] not in topics]
    examined = [row for row in rows if row["topic"] in topics]
    pairs = training_pairs(learnt, references, job.settings)
    held_out = training_pairs(examined, references, job.settings) if examined else []
    model = load_to_train(job.model, job.settings, job.seed)
    longest = max(pairs + held_out, key=lambda pair: pair.length)
    limit = longest_input(model.policy.config)
    if longest.length > limit:
        raise UserError(
            f"pair {longest.id!r} has {longest.length} tokens and the model {limit:g} positions: "
            f"set preference.max_length={limit:g}"
        )
    return pairs, held_out, model


def load_to_train(model: ModelConfig, settings: TrainingConfig, seed: int) -> "LogProbModel":
    """The policy as training begins, with what would stop its export found.

    Args:
        seed: of adapters.

    Raises:
        UserError: it cannot be trained exactly, or not saved.
    """
    import torch

    from maskdpo_ray.training.export import rehearse_export
    from maskdpo_ray.training.logprobs import LogProbModel
    from maskdpo_ray.training.lora import add_adapters
    from maskdpo_ray.training.model import freeze_unread, load_policy

    policy = load_policy(model, settings)
    rehearse_export(policy, model, settings.lora)
    freeze_unread(policy)
    if settings.lora is not None:
        add_adapters(policy, settings.lora, seed)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    chunk, packing = settings.logprob_chunk, settings.packing
    return LogProbModel(policy, chunk, packing, settings.router_aux_weight)


def held_out_topics(topics: Iterable[str], share: float, seed: int) -> set[str]:
    """A share of the topics, drawn with the seed: their pairs are examined and not learnt from.

    Whole topics, because answers about one topic resemble each other; at least one is left.

    Raises:
        UserError: there is but one topic.
    """
    names = sorted(set(topics))
    if share and len(names) == 1:
        raise UserError(
            f"training.holdout holds out whole topics, and all pairs are about {names[0]!r}: give "
            "the questions topics of their own, or remove training.holdout"
        )
    count = min(math.ceil(share * len(names)), len(names) - 1)
    drawn = np.random.default_rng((seed, len(names))).permutation(len(names))[:count]
    return {names[index] for index in drawn}


def _together(work: Callable[[], Any], workers: Workers) -> Any:
    """Do something on every worker; if one meets a UserError, all raise it.

    The others would else wait for it in the next collective, without a word.
    """
    result, problem = None, []
    try:
        result = work()
    except UserError as error:
        problem = [str(error)]
    problems = gathered(problem, workers.count)
    if problems:
        raise UserError(problems[0])
    return result


@contextmanager
def _newest_sound(workers: Workers, identity: str) -> Iterator[Path | None]:
    """Folder of the newest checkpoint that is whole; all workers agree on it. Those passed over on
    the way are discarded."""
    from maskdpo_ray.training.checkpoint import damage, read_position

    passed_over: list[str] = []
    for name, opened in workers.checkpoints().items():
        with opened() as folder:
            problem = damage(folder, workers.rank, workers.count)
            problems = gathered([problem] if problem else [], workers.count)
            if problems:
                if workers.rank == 0:
                    log.warning("checkpoint %s passed over: %s", name, problems[0])
                passed_over.append(name)
                continue
            try:
                position = read_position(folder)
            except ValueError:
                raise UserError(
                    f"checkpoint {name} was written by another version of maskdpo-ray: go on with "
                    "that one, train into another folder, or remove it"
                ) from None
            if position.identity != identity:
                raise UserError(
                    f"checkpoint {name} belongs to other pairs or settings: train into another "
                    "folder, or remove it"
                )
            if workers.rank == 0:
                workers.discard(passed_over)
            yield folder
            return
    if workers.rank == 0:
        workers.discard(passed_over)
    yield None


def _identity(job: TrainingJob, pairs: list[TrainingPair]) -> str:
    """Fingerprint of everything that the weights after a step depend on.

    Of the reference the tokens that it is of: computed again, on other hardware or in other passes,
    it is the same to rounding, and its policy is in the name of the folder.
    """
    decides = [job.seed, job.settings.decides()]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    for pair in pairs:
        digest.update(f"{pair.id}\n{pair.weight}\n{pair.gap}\n{len(pair.prompt_ids)}\n".encode())
        digest.update(pair.prompt_ids.tobytes())
        for response in (pair.chosen, pair.rejected):
            digest.update(f"{len(response.token_ids)}\n".encode())
            for values in (response.token_ids, response.weights, response.owners, response.correct):
                digest.update(b"" if values is None else values.tobytes())
    return digest.hexdigest()


class MetricsLog:
    """``metrics.jsonl``, one line per step and no step twice.

    Steps that an interrupted session did after its last checkpoint are done again: the file
    begins with the history of the checkpoint and loses what stood after it.
    """

    def __init__(self, folder: Folder, history: list[dict[str, Any]]) -> None:
        self._folder = folder
        self._lines = [json.dumps(line) for line in history]
        self.write_all()

    def add(self, line: dict[str, Any]) -> None:
        """Append a step. An object store cannot append: it gets the file with ``write_all``."""
        self._lines.append(json.dumps(line))
        if self._folder.is_local:
            with open(self._folder.path(self._NAME), "a", encoding="utf-8") as file:
                file.write(self._lines[-1] + "\n")

    def write_all(self) -> None:
        self._folder.write(self._NAME, "".join(line + "\n" for line in self._lines).encode())

    _NAME = "metrics.jsonl"
