"""One optimizer step over its forward passes, and the metrics of it.

Whatever the number of workers and passes, gradient and metrics are those of the step's pairs.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.batch_plan import split_batch
from maskdpo_ray.training.batches import Batch, TrainingPair, collate, idle_batch
from maskdpo_ray.training.loss import (
    KlEstimates,
    kl_estimates,
    masked_log_ratios,
    masked_means,
    masked_sums,
    pair_losses,
)

if TYPE_CHECKING:
    from torch import Tensor

    from maskdpo_ray.training.engine import Engine


class Fellows(Protocol):
    """This worker among the others (``worker.Workers``)."""

    rank: int
    count: int


def gathered(items: list[Any], workers: int) -> list[Any]:
    """The items of all workers, in the order of their ranks."""
    from torch import distributed

    if workers == 1:
        return items
    lists: list[list[Any]] = [[] for _ in range(workers)]
    distributed.all_gather_object(lists, items)
    return [item for each in lists for item in each]


def learn(
    engine: "Engine",
    pairs: list[TrainingPair],
    batch: np.ndarray,
    tokens: np.ndarray,
    settings: TrainingConfig,
    workers: Fellows,
    rate: float,
) -> dict[str, float]:
    """One optimizer step; the gradient is that of the mean loss over the global batch: the sum of
    weight times loss, divided by the number of pairs, never by their weights.

    Args:
        batch: indices of the step's pairs, ``[<= batch_size]``.
        tokens: of every pair, ``[pairs]``, what ``split_batch`` balances.
        rate: learning rate.

    Raises:
        UserError: a loss or the gradient is not finite, naming the pairs.
    """
    passes = _passes(engine, batch, tokens, settings, workers)
    kl = _kl_estimates(engine, pairs, passes, len(batch), settings, workers)
    # The engine averages over the workers, so their sums are scaled up by their number.
    scale = workers.count / len(batch)
    sums = np.zeros(len(_SUMS))
    sizes: list[tuple[float, str]] = []
    for number, (rows, tensors) in enumerate(_loaded(engine, pairs, passes)):
        losses, values = _losses(engine(**tensors.inputs()), tensors, settings, kl)
        # A worker without pairs takes part in the pass with a loss that counts for nothing.
        loss = losses.sum() * (scale if rows else 0.0)
        engine.backward(loss, last=number == len(passes) - 1)
        if number == 0:
            # The largest pass of a step. Its gradients stay among what its activations leave, and
            # those of later passes would come on top: 3 % of the memory with 128 k words.
            engine.give_back()
        if rows:
            sums += _sums(rows, losses, values)
            sizes += zip(losses.tolist(), (row.id for row in rows), strict=True)
    unsound = [name for loss, name in sizes if not math.isfinite(loss)]
    sums = _over_workers(sums, unsound, engine.device, workers.count)
    norm = engine.step(rate)
    if not math.isfinite(norm):
        by_size = sorted(gathered(sizes, workers.count), key=lambda each: -abs(each[0]))
        names = ", ".join(f"{name!r} ({loss:.3g})" for loss, name in by_size[:5])
        raise UserError(
            f"the gradient of {len(by_size)} pairs is not finite though their losses are, the "
            f"largest of which are those of {names}: look at these rows first, lower "
            "training.learning_rate, or train in float32"
        )
    return _means(sums) | {"grad_norm": norm, "learning_rate": rate}


def examine(
    engine: "Engine",
    pairs: list[TrainingPair],
    tokens: np.ndarray,
    settings: TrainingConfig,
    workers: Fellows,
) -> dict[str, float]:
    """The metrics of pairs that are not learnt from, under ``eval/``.

    Arguments and errors as for ``learn``.
    """
    import torch

    everything = np.arange(len(pairs))
    passes = _passes(engine, everything, tokens, settings, workers)
    kl = _kl_estimates(engine, pairs, passes, len(pairs), settings, workers)
    sums = np.zeros(len(_SUMS))
    unsound: list[str] = []
    for rows, tensors in _loaded(engine, pairs, passes):
        with torch.no_grad():
            losses, values = _losses(engine(**tensors.inputs()), tensors, settings, kl)
        if rows:
            sums += _sums(rows, losses, values)
            unsound += _unsound(rows, losses)
    sums = _over_workers(sums, unsound, engine.device, workers.count)
    return {f"eval/{name}": value for name, value in _means(sums).items()}


def _passes(
    engine: "Engine",
    batch: np.ndarray,
    tokens: np.ndarray,
    settings: TrainingConfig,
    workers: Fellows,
) -> list[np.ndarray]:
    """The forward passes of this worker."""
    packed = engine.module.packed
    plan = split_batch(batch, tokens, workers.count, settings.micro_batch_tokens, packed)
    return plan[workers.rank]


def _loaded(
    engine: "Engine", pairs: list[TrainingPair], passes: list[np.ndarray]
) -> Iterator[tuple[list[TrainingPair], Batch]]:
    """Each pass's pairs, and the tensors that the model takes: of nothing where there are none."""
    packed = engine.module.packed
    for indices in passes:
        rows = [pairs[index] for index in indices]
        yield rows, (collate(rows, packed) if rows else idle_batch(packed)).to(engine.device)


def _unsound(rows: list[TrainingPair], values: "Tensor") -> list[str]:
    """Names of the rows whose value, ``[rows]``, is not finite."""
    return [row.id for row, ok in zip(rows, values.isfinite().tolist(), strict=True) if not ok]


def _kl_estimates(
    engine: "Engine",
    pairs: list[TrainingPair],
    passes: list[np.ndarray],
    batch_size: int,
    settings: TrainingConfig,
    workers: Fellows,
) -> KlEstimates | None:
    """What ``kto_pair`` compares every pair of a step with, from a forward over the whole step;
    other losses compare with nothing.

    Estimates of one pass alone would make the loss depend on how the step is cut.
    """
    import torch

    if settings.loss != "kto_pair":
        return None
    sums = np.zeros(2)
    unsound: list[str] = []
    for rows, tensors in _loaded(engine, pairs, passes):
        with torch.no_grad():
            ratios = _log_ratios(engine(**tensors.inputs()), tensors, settings).double()
        if rows:
            sides = ratios.view(2, -1)
            sums += sides.sum(dim=1).cpu().numpy()
            unsound += _unsound(rows, sides.sum(dim=0))
    sums = _over_workers(sums, unsound, engine.device, workers.count)
    return kl_estimates(*(sums / batch_size).tolist())


def _log_ratios(log_probs: "Tensor", batch: Batch, settings: TrainingConfig) -> "Tensor":
    """What the loss compares, for every response: sums, or means per token for ``ipo``."""
    where = (batch.weights, batch.owner, batch.sequences)
    if settings.loss == "ipo":
        return masked_means(log_probs - batch.reference, *where)
    return masked_log_ratios(log_probs, batch.reference, *where)


def _losses(
    log_probs: "Tensor", batch: Batch, settings: TrainingConfig, kl: KlEstimates | None
) -> "tuple[Tensor, dict[str, Tensor]]":
    """Loss of every pair ``[pairs]``, its weight in it, and the values that metrics are made of.

    Args:
        kl: of all pairs whose mean loss is wanted; ``kto_pair`` alone reads it.
    """
    chosen, rejected = _log_ratios(log_probs, batch, settings).chunk(2)
    losses = pair_losses(settings, chosen, rejected, kl)
    where = (batch.weights, batch.owner, batch.sequences)
    likelihoods, _ = masked_means(-log_probs, *where).chunk(2)
    if settings.nll_weight:
        losses = losses + settings.nll_weight * likelihoods
    logps_chosen, logps_rejected = masked_sums(log_probs.detach(), *where).chunk(2)
    return losses * batch.pair_weights, {
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


def _over_workers(sums: np.ndarray, unsound: list[str], device: Any, workers: int) -> np.ndarray:
    """Add up over the workers.

    Raises:
        UserError: on all of them, if any has pairs whose loss is not finite (``unsound``).
    """
    import torch
    from torch import distributed

    if workers > 1:
        totals = torch.from_numpy(np.append(sums, len(unsound))).to(device)
        distributed.all_reduce(totals)
        *summed, troubled = totals.tolist()
        sums, unsound = np.array(summed), gathered(unsound, workers) if troubled else []
    if unsound:
        raise UserError(
            f"the loss of {len(unsound)} pairs is not finite, the first are "
            f"{', '.join(map(repr, sorted(unsound)[:5]))}: look at these rows, lower "
            "training.learning_rate, or train in float32"
        )
    return sums


def _means(totals: np.ndarray) -> dict[str, float]:
    """Means over pairs from ``_SUMS``, under the names that TRL made common.

    ``loss`` is that of :func:`learn`; in the others every pair counts alike, whatever its weight.
    ``logps`` and ``rewards`` are weighted sums over the tokens with a non-zero weight; with
    ``mask: none`` these are all tokens (``ipo``: ``rewards`` are of means per token, as its loss).
    ``nll_loss`` is the mean over these tokens of the chosen answer, whether the loss has the term
    or not. ``kept`` is the share of response tokens with a non-zero weight.
    """
    sums = dict(zip(_SUMS, totals.tolist(), strict=True))
    pairs = sums["pairs"]
    chosen, rejected = sums["rewards/chosen"] / pairs, sums["rewards/rejected"] / pairs
    return {
        "loss": sums["loss"] / pairs,
        "nll_loss": sums["nll_loss"] / pairs,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": sums["rewards/accuracies"] / pairs,
        "logps/chosen": sums["logps/chosen"] / pairs,
        "logps/rejected": sums["logps/rejected"] / pairs,
        "kept/chosen": sums["kept/chosen"] / sums["tokens/chosen"],
        "kept/rejected": sums["kept/rejected"] / sums["tokens/rejected"],
    }
