"""What every training worker does: plan, learn, save, export.

Nothing here knows Ray. ``stage.py`` runs it in Ray Train workers and hands in what it needs of
them: rank, number of workers, the checkpoints there are, how to save one.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskdpo_ray.config import ModelConfig, TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.records import Pair
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.batch_plan import global_batch, split_batch, steps_per_epoch
from maskdpo_ray.training.batches import Batch, TrainingPair, collate, idle_batch, training_pairs
from maskdpo_ray.training.loss import (
    KlEstimates,
    kl_estimates,
    masked_log_ratios,
    masked_means,
    masked_sums,
    pair_losses,
)
from maskdpo_ray.training.schedule import learning_rate

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from maskdpo_ray.training.engine import Engine

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


@dataclass(frozen=True)
class Workers:
    """This worker among its fellows, and how a checkpoint is found and kept."""

    rank: int
    count: int
    checkpoints: Callable[[], Sequence[Callable[[], AbstractContextManager[Path]]]]
    """Those there are, newest first; each opens as a local folder."""
    save: Callable[[Callable[[Path], None], dict[str, Any]], None]
    """Calls its argument with an empty folder and makes what stands there durable."""
    progress: Callable[[dict[str, Any]], None]
    """Told the metrics of every step, on rank 0."""


def train(job: TrainingJob, workers: Workers) -> dict[str, Any]:
    """Train to the end, from the newest sound checkpoint if there is one; export the policy.

    Returns:
        The metrics of the last step.

    Raises:
        UserError: unusable pairs, a model that cannot be loaded, or a loss that is not finite.
    """
    import torch

    from maskdpo_ray.training import checkpoint
    from maskdpo_ray.training.engine import Engine
    from maskdpo_ray.training.export import gather_weights, model_card, write_model
    from maskdpo_ray.training.logprobs import LogProbModel

    settings = job.settings
    torch.manual_seed(job.seed)
    pairs, policy = _together(lambda: _load(job), workers)
    epoch_steps = steps_per_epoch(len(pairs), settings.batch_size)
    total = min(epoch_steps * settings.epochs, settings.max_steps or math.inf)
    identity = _identity(job, pairs)
    model = LogProbModel(policy, settings.logprob_chunk, settings.packing)
    tokens = np.array([pair.tokens(model.packed) for pair in pairs])
    model.train()
    history: list[dict[str, Any]] = []
    with _newest_sound(workers, identity) as resumed:
        if resumed is not None:
            checkpoint.load_weights(policy, resumed)
        engine = Engine(model, settings, job.model.dtype)
        if resumed is not None:
            position = checkpoint.read_position(resumed)
            checkpoint.load_state(engine, resumed, position.step)
            history = position.history
    metrics_log = MetricsLog(job.output, history) if workers.rank == 0 else None

    for step in range(len(history), total):
        began = time.perf_counter()
        rate = learning_rate(
            step, total, settings.learning_rate, settings.warmup_ratio, settings.min_lr_ratio
        )
        batch = global_batch(step, len(pairs), settings.batch_size, job.seed)
        metrics = _learn(engine, pairs, batch, tokens, settings, workers, rate)
        line = {
            "step": step + 1,
            "total_steps": total,
            "epoch": (step + 1) / epoch_steps,
            **metrics,
            "seconds": time.perf_counter() - began,
        }
        history.append(line)
        if metrics_log is not None:
            metrics_log.add(line)
            workers.progress(line)
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == total:
            position = checkpoint.Position(step + 1, identity, history)
            if metrics_log is not None:
                metrics_log.write_all()
            workers.save(
                lambda folder, at=position: checkpoint.save_part(
                    engine, folder, workers.rank, workers.count, at
                ),
                line,
            )

    weights = gather_weights(engine, keep=workers.rank == 0)
    if workers.rank == 0:
        card = model_card(job.model.path, {**settings.model_dump(), "seed": job.seed}, history[-1])
        write_model(policy, weights, job.model, settings.lora, job.output, card)
    engine.close()
    return history[-1]


def _load(job: TrainingJob) -> "tuple[list[TrainingPair], PreTrainedModel]":
    """The pairs in the order of their ids, and the policy as it was before training."""
    from maskdpo_ray.training.lora import add_adapters
    from maskdpo_ray.training.model import load_policy, longest_input

    references = {row["id"]: row for row in job.references()}
    pairs = training_pairs(job.pairs(), references, job.settings.mask)
    policy = load_policy(job.model, job.settings.attention, job.settings.gradient_checkpointing)
    longest, limit = max(pairs, key=lambda pair: pair.length), longest_input(policy.config)
    if longest.length > limit:
        raise UserError(
            f"pair {longest.id!r} has {longest.length} tokens and the model {limit:g} positions: "
            f"set preference.max_length={limit:g}"
        )
    if job.settings.lora is not None:
        add_adapters(policy, job.settings.lora, job.seed)
    return pairs, policy


def _together(work: Callable[[], Any], workers: Workers) -> Any:
    """Do something on every worker; if one meets a UserError, all raise it.

    The others would else wait for it in the next collective, without a word.
    """
    result, problem = None, []
    try:
        result = work()
    except UserError as error:
        problem = [str(error)]
    problems = _gathered(problem, workers.count)
    if problems:
        raise UserError(problems[0])
    return result


def _gathered(items: list[str], workers: int) -> list[str]:
    """The items of all workers, in the order of their ranks."""
    from torch import distributed

    if workers == 1:
        return items
    lists: list[list[str]] = [[] for _ in range(workers)]
    distributed.all_gather_object(lists, items)
    return [item for each in lists for item in each]


def _learn(
    engine: "Engine",
    pairs: list[TrainingPair],
    batch: np.ndarray,
    tokens: np.ndarray,
    settings: TrainingConfig,
    workers: Workers,
    rate: float,
) -> dict[str, float]:
    """One optimizer step; the gradient is that of the mean loss over the global batch."""
    packed = engine.module.packed
    plan = split_batch(batch, tokens, workers.count, settings.micro_batch_tokens, packed)
    passes = plan[workers.rank]
    kl = None
    if settings.loss == "kto_pair":
        kl = _kl_estimates(engine, pairs, passes, len(batch), settings, workers)
    # The engine averages over the workers, so their sums are scaled up by their number.
    scale = workers.count / len(batch)
    sums = np.zeros(len(_SUMS))
    unsound: list[str] = []
    for number, chosen_pairs in enumerate(passes):
        rows = [pairs[index] for index in chosen_pairs]
        tensors = _tensors(rows, engine)
        losses, values = _losses(engine(**tensors.inputs()), tensors, settings, kl)
        # A worker without pairs takes part in the pass with a loss that counts for nothing.
        loss = losses.sum() * (scale if rows else 0.0)
        engine.backward(loss, last=number == len(passes) - 1)
        if rows:
            sums += _sums(rows, losses, values)
            finite = losses.isfinite().tolist()
            unsound += [row.id for row, ok in zip(rows, finite, strict=True) if not ok]
    sums, unsound = _over_workers(sums, unsound, engine.device, workers.count)
    _refuse_unsound(unsound)
    norm = engine.step(rate)
    if not math.isfinite(norm):
        names = ", ".join(repr(pairs[index].id) for index in batch[:5])
        raise UserError(
            f"the gradient of the batch with pairs {names}, ... is not finite though its losses "
            "are: lower training.learning_rate, or train in float32"
        )
    return _metrics(dict(zip(_SUMS, sums.tolist(), strict=True)), norm, rate)


def _refuse_unsound(names: list[str]) -> None:
    """Raise if there are pairs whose loss is not finite."""
    if names:
        raise UserError(
            f"the loss of {len(names)} pairs is not finite, the first are "
            f"{', '.join(map(repr, sorted(names)[:5]))}: look at these rows, lower "
            "training.learning_rate, or train in float32"
        )


def _kl_estimates(
    engine: "Engine",
    pairs: list[TrainingPair],
    passes: list[np.ndarray],
    batch_size: int,
    settings: TrainingConfig,
    workers: Workers,
) -> KlEstimates:
    """What ``kto_pair`` compares every pair of a step with, from a forward over the whole step.

    Estimates of one pass alone would make the loss depend on how the step is cut.
    """
    import torch

    sums = np.zeros(2)
    unsound: list[str] = []
    for chosen_pairs in passes:
        rows = [pairs[index] for index in chosen_pairs]
        tensors = _tensors(rows, engine)
        with torch.no_grad():
            ratios = _log_ratios(engine(**tensors.inputs()), tensors, settings).double()
        if rows:
            sides = ratios.view(2, -1)
            sums += sides.sum(dim=1).cpu().numpy()
            finite = sides.isfinite().all(dim=0).tolist()
            unsound += [row.id for row, ok in zip(rows, finite, strict=True) if not ok]
    sums, unsound = _over_workers(sums, unsound, engine.device, workers.count)
    _refuse_unsound(unsound)
    return kl_estimates(*(sums / batch_size).tolist())


def _tensors(rows: list[TrainingPair], engine: "Engine") -> Batch:
    """One pass over these pairs, as the model wants it; over nothing for a worker without any."""
    packed = engine.module.packed
    return (collate(rows, packed) if rows else idle_batch(packed)).to(engine.device)


def _log_ratios(log_probs: "Tensor", batch: Batch, settings: TrainingConfig) -> "Tensor":
    """What the loss compares, for every response: sums, or means per token for ``ipo``."""
    where = (batch.weights, batch.owner, batch.sequences)
    if settings.loss == "ipo":
        return masked_means(log_probs - batch.reference, *where)
    return masked_log_ratios(log_probs, batch.reference, *where)


def _losses(
    log_probs: "Tensor", batch: Batch, settings: TrainingConfig, kl: KlEstimates | None = None
) -> "tuple[Tensor, dict[str, Tensor]]":
    """Loss of every pair ``[pairs]``, and the values that the metrics are made of.

    Args:
        kl: of the whole step, for ``kto_pair``.
    """
    chosen, rejected = _log_ratios(log_probs, batch, settings).chunk(2)
    losses = pair_losses(settings, chosen, rejected, kl)
    where = (batch.weights, batch.owner, batch.sequences)
    likelihoods, _ = masked_means(-log_probs, *where).chunk(2)
    if settings.nll_weight:
        losses = losses + settings.nll_weight * likelihoods
    logps_chosen, logps_rejected = masked_sums(log_probs.detach(), *where).chunk(2)
    return losses, {
        "nll_loss": likelihoods.detach(),
        "rewards/chosen": settings.beta * chosen.detach(),
        "rewards/rejected": settings.beta * rejected.detach(),
        "logps/chosen": logps_chosen,
        "logps/rejected": logps_rejected,
    }


_SUMS = (
    "pairs",
    "loss",
    "nll_loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "tokens/chosen",
    "tokens/rejected",
    "kept/chosen",
    "kept/rejected",
)


def _sums(rows: list[TrainingPair], losses: "Tensor", values: "dict[str, Tensor]") -> np.ndarray:
    """Sums over the pairs of one pass, in the order of ``_SUMS``."""
    totals = {key: float(value.double().sum()) for key, value in values.items()}
    won = values["rewards/chosen"] > values["rewards/rejected"]
    totals["rewards/accuracies"] = float(won.sum())
    totals["loss"] = float(losses.detach().double().sum())
    totals["pairs"] = len(rows)
    for side in ("chosen", "rejected"):
        weights = [getattr(row, side).weights for row in rows]
        totals[f"tokens/{side}"] = sum(map(len, weights))
        totals[f"kept/{side}"] = sum(np.count_nonzero(w) for w in weights)
    return np.array([totals[key] for key in _SUMS], dtype=np.float64)


def _over_workers(
    sums: np.ndarray, unsound: list[str], device: Any, workers: int
) -> tuple[np.ndarray, list[str]]:
    """Add up over the workers; all learn of rows that any of them could not use."""
    import torch
    from torch import distributed

    if workers == 1:
        return sums, unsound
    totals = torch.from_numpy(np.append(sums, len(unsound))).to(device)
    distributed.all_reduce(totals)
    *summed, troubled = totals.tolist()
    return np.array(summed), _gathered(unsound, workers) if troubled else []


def _metrics(sums: dict[str, float], norm: float, rate: float) -> dict[str, float]:
    """Means over the step, under the names that TRL made common.

    ``logps`` and ``rewards`` are weighted sums over the tokens with a non-zero weight; with
    ``mask: none`` these are all tokens (``ipo``: ``rewards`` are of means per token, as its loss).
    ``nll_loss`` is the mean over these tokens of the chosen answer, whether the loss has the term
    or not. ``kept`` is the share of response tokens with a non-zero weight.
    """
    pairs = sums["pairs"]
    chosen, rejected = sums["rewards/chosen"] / pairs, sums["rewards/rejected"] / pairs
    return {
        "loss": sums["loss"] / pairs,
        "nll_loss": sums["nll_loss"] / pairs,
        "grad_norm": norm,
        "learning_rate": rate,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": sums["rewards/accuracies"] / pairs,
        "logps/chosen": sums["logps/chosen"] / pairs,
        "logps/rejected": sums["logps/rejected"] / pairs,
        "kept/chosen": sums["kept/chosen"] / sums["tokens/chosen"],
        "kept/rejected": sums["kept/rejected"] / sums["tokens/rejected"],
    }


@contextmanager
def _newest_sound(workers: Workers, identity: str) -> Iterator[Path | None]:
    """Folder of the newest checkpoint that is whole; all workers agree on it."""
    from maskdpo_ray.training.checkpoint import damage, read_position

    for opened in workers.checkpoints():
        with opened() as folder:
            problem = damage(folder, workers.rank, workers.count)
            problems = _gathered([problem] if problem else [], workers.count)
            if problems:
                if workers.rank == 0:
                    log.warning("checkpoint %s passed over: %s", folder.name, problems[0])
                continue
            if read_position(folder).identity != identity:
                raise UserError(
                    f"checkpoint {folder} belongs to other pairs or settings: train into another "
                    "folder, or remove it"
                )
            yield folder
            return
    yield None


def _identity(job: TrainingJob, pairs: list[TrainingPair]) -> str:
    """Fingerprint of everything that the weights after a step depend on."""
    how = {"preset", *TrainingConfig.HOW}
    settings = job.settings.model_dump(mode="json", exclude=how)
    digest = hashlib.sha256(json.dumps([job.seed, settings], sort_keys=True).encode())
    for pair in pairs:
        digest.update(f"{pair.id}\n{len(pair.prompt_ids)}\n".encode())
        digest.update(pair.prompt_ids.tobytes())
        for response in (pair.chosen, pair.rejected):
            digest.update(f"{len(response.token_ids)}\n".encode())
            for values in (response.token_ids, response.weights, response.reference):
                digest.update(values.tobytes())
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
