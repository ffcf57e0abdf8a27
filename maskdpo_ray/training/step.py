"""One optimizer step over its forward passes, and the metrics of it.

Whatever the number of workers and passes, gradient and metrics are those of the step's pairs.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.batch_plan import split_batch
from maskdpo_ray.training.batches import Batch, TrainingPair, collate, idle_batch
from maskdpo_ray.training.loss import KlEstimates, SentenceKl, kl_estimates
from maskdpo_ray.training.objective import log_ratios, losses, sentences

if TYPE_CHECKING:
    from torch import Tensor

    from maskdpo_ray.training.engine import Engine
    from maskdpo_ray.training.routing import Balance


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
    weight times loss, divided by the number of pairs, never by their weights; and of the loss of
    the batch's routers, where that has a weight.

    Args:
        batch: indices of the step's pairs, ``[<= batch_size]``.
        tokens: of every pair, ``[pairs]``, what ``split_batch`` balances.
        rate: learning rate.

    Raises:
        UserError: a loss or the gradient is not finite, naming the pairs.
    """
    passes = _passes(engine, batch, tokens, settings, workers)
    kl, balance = _looked_ahead(engine, pairs, passes, len(batch), settings, workers)
    # The engine averages over the workers, so their sums are scaled up by their number.
    scale = workers.count / len(batch)
    sums: Counter[str] = Counter()
    sizes: list[tuple[float, str]] = []
    for number, (rows, tensors) in enumerate(_loaded(engine, pairs, passes)):
        log_probs, routed = _said(engine, tensors)
        of_pairs, values = losses(log_probs, tensors, settings, kl)
        loss = of_pairs.sum() * scale
        if balance is not None:
            of_routers = balance.of_pass(routed)
            loss = loss + of_routers * (balance.weight * workers.count)
            sums["aux_loss"] += float(of_routers.detach()) if rows else 0.0
        if not rows:
            # A worker without pairs takes part in the pass with a loss that counts for nothing.
            loss = loss * 0.0
        engine.backward(loss, last=number == len(passes) - 1)
        if number == 0:
            # The largest pass of a step. Its gradients stay among what its activations leave, and
            # those of later passes would come on top: 3 % of the memory with 128 k words.
            engine.give_back()
        sums.update(_sums(rows, of_pairs, values))
        if rows:
            sizes += zip(of_pairs.tolist(), (row.id for row in rows), strict=True)
    unsound = [name for loss, name in sizes if not math.isfinite(loss)]
    sums = _all_sums(sums, unsound, engine.device, workers.count)
    norm = engine.step(rate)
    if not math.isfinite(norm):
        by_size = sorted(gathered(sizes, workers.count), key=lambda each: -abs(each[0]))
        names = ", ".join(f"{name!r} ({loss:.3g})" for loss, name in by_size[:5])
        raise UserError(
            f"the gradient of {len(by_size)} pairs is not finite though their losses are, the "
            f"largest of which are those of {names}: look at these rows first, lower "
            "training.learning_rate, or train in float32"
        )
    return _means(sums, balance) | {"grad_norm": norm, "learning_rate": rate}


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
    kl, balance = _looked_ahead(engine, pairs, passes, len(pairs), settings, workers)
    sums: Counter[str] = Counter()
    unsound: list[str] = []
    for rows, tensors in _loaded(engine, pairs, passes):
        with torch.no_grad():
            log_probs, routed = _said(engine, tensors)
            of_pairs, values = losses(log_probs, tensors, settings, kl)
        sums.update(_sums(rows, of_pairs, values))
        if balance is not None:
            sums["aux_loss"] += float(balance.of_pass(routed)) if rows else 0.0
        if rows:
            unsound += _unsound(rows, of_pairs)
    sums = _all_sums(sums, unsound, engine.device, workers.count)
    return {f"eval/{name}": value for name, value in _means(sums, balance).items()}


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


def _said(engine: "Engine", tensors: Batch) -> "tuple[Tensor, Tensor | None]":
    """Log-probabilities of a pass, and what its routers did where they have a loss."""
    if engine.module.routers is None:
        return engine(**tensors.inputs()), None
    return engine(**tensors.inputs(), routed=True)


def _looked_ahead(
    engine: "Engine",
    pairs: list[TrainingPair],
    passes: list[np.ndarray],
    batch_size: int,
    settings: TrainingConfig,
    workers: Fellows,
) -> "tuple[KlEstimates | SentenceKl | None, Balance | None]":
    """What ``kto_pair`` compares every pair of a step with, and ``fkto`` every sentence; and what
    the loss of routers is made with. From a forward over the whole step; where neither is wanted
    there is none.

    Estimates of one pass alone would make the loss depend on how the step is cut.
    """
    import torch

    routers, of_kl = engine.module.routers, settings.loss in ("kto_pair", "fkto")
    if not of_kl and routers is None:
        return None, None
    sums, counted = np.zeros(2), np.zeros(routers.experts if routers else 0)
    unsound: list[str] = []
    for rows, tensors in _loaded(engine, pairs, passes):
        with torch.no_grad():
            log_probs, routed = _said(engine, tensors)
        if not rows:
            continue
        if routers is not None:
            counted += routed[0].double().cpu().numpy()
        if settings.loss == "fkto":
            found = sentences(log_probs, tensors, settings)
            ratios = found.log_ratios.double()
            sums += (float(ratios.sum()), len(ratios))
            of_pairs = ratios.new_zeros(len(rows)).index_add(0, found.pair, ratios)
            unsound += _unsound(rows, of_pairs)
        elif of_kl:
            sides = log_ratios(log_probs, tensors, settings).compared.double().view(2, -1)
            sums += sides.sum(dim=1).cpu().numpy()
            unsound += _unsound(rows, sides.sum(dim=0))
    totals = _over_workers(np.append(sums, counted), unsound, engine.device, workers.count)
    balance = routers.balance(totals[2:]) if routers else None
    if settings.loss == "fkto":
        total, count = totals[:2].tolist()
        return SentenceKl(max(0.0, total / count), count / batch_size), balance
    return (kl_estimates(*(totals[:2] / batch_size).tolist()) if of_kl else None), balance


def _sums(
    rows: list[TrainingPair], losses: "Tensor", values: "dict[str, Tensor]"
) -> dict[str, float]:
    """Sums over the pairs of one pass; zeros under the same names where it has none."""
    import torch

    values = {"loss": losses.detach(), **values}
    totals = torch.stack([value.double() for value in values.values()]).sum(dim=1).tolist()
    sums = {"pairs": float(len(rows)), **dict(zip(values, totals, strict=True))}
    for side in ("chosen", "rejected"):
        weights = [getattr(row, side).weights for row in rows]
        sums[f"tokens/{side}"] = sum(map(len, weights))
        sums[f"kept/{side}"] = sum(np.count_nonzero(w) for w in weights)
    return sums if rows else dict.fromkeys(sums, 0.0)


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


def _all_sums(
    sums: Mapping[str, float], unsound: list[str], device: Any, workers: int
) -> dict[str, float]:
    """``_over_workers`` for sums by name; the names are the same on all of them."""
    totals = _over_workers(np.array(list(sums.values())), unsound, device, workers)
    return dict(zip(sums, totals.tolist(), strict=True))


def _means(sums: dict[str, float], balance: "Balance | None") -> dict[str, float]:
    """Means over pairs from their sums, under the names that TRL made common.

    ``loss`` is that of :func:`learn`; in the others every pair counts alike, whatever its weight.
    ``logps`` and ``rewards`` are weighted sums over the tokens with a non-zero weight; with
    ``mask: none`` these are all tokens (``ipo``: ``rewards`` are of means per token, as its loss),
    and ``log_ratios`` the means of ``log pi - log pi_ref`` over them, all without a bound.
    ``aux_loss`` is that of the routers, of the step as a whole.
    ``nll_loss`` is the mean over these tokens of the chosen answer, whether the loss has the term
    or not. ``kept`` is the share of response tokens with a non-zero weight.

    For a loss of sentences (``counted``: how many there are) chosen means correct ones and rejected
    incorrect ones, of whichever answer; their means are over sentences.
    """
    sums = dict(sums)
    pairs = sums.pop("pairs")
    tokens = {side: sums.pop(f"tokens/{side}") for side in ("chosen", "rejected")}
    kept = {f"kept/{side}": sums.pop(f"kept/{side}") / (n or 1) for side, n in tokens.items()}
    if "counted/chosen" in sums:
        correct, incorrect = (sums.pop(f"counted/{side}") for side in ("chosen", "rejected"))
        counts = {"nll_loss": correct, "rewards/accuracies": correct + incorrect}
        for name in ("rewards", "logps", "log_ratios"):
            counts |= {f"{name}/chosen": correct, f"{name}/rejected": incorrect}
    else:
        counts = {}
    counts["aux_loss"] = 1.0
    means = {name: total / (counts.get(name, pairs) or 1.0) for name, total in sums.items()}
    if balance is not None:
        means["loss"] += balance.weight * means["aux_loss"]
    margin = means["rewards/chosen"] - means["rewards/rejected"]
    return {**means, "rewards/margins": margin, **kept}
