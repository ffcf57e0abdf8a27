"""What one forward pass is asked: the loss of each of its pairs, and what metrics are made of.

The settings are read here; the formulas are in ``loss.py``.
"""

from typing import TYPE_CHECKING, NamedTuple

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.training.batches import Batch
from maskdpo_ray.training.loss import (
    ROUNDING,
    KlEstimates,
    SentenceKl,
    anchor_losses,
    fkto_losses,
    floored_sums,
    masked_log_ratios,
    masked_means,
    masked_sums,
    pair_losses,
)

if TYPE_CHECKING:
    from torch import Tensor


class LogRatios(NamedTuple):
    """Of every response of a pass: sums in nats, or means per token (``settings.averages``)."""

    plain: "Tensor"  # [sequences]
    compared: "Tensor"  # [sequences], what the loss compares: those of rejected answers bounded
    below: "Tensor | None"  # [pairs], share of a rejected answer's units that are at the bound


def log_ratios(log_probs: "Tensor", batch: Batch, settings: TrainingConfig) -> LogRatios:
    """M of equation 6 for every response, as the loss reads it.

    Args:
        log_probs: of the policy, fp32 ``[tokens]``.
    """
    where = (batch.weights, batch.owner, batch.sequences)
    reference = log_probs.new_zeros(()) if settings.reference_free else batch.reference
    plain = masked_log_ratios(log_probs, reference, *where)
    compared, below = plain, None
    if settings.rejected_floor is not None:
        compared, below = _bounded(log_probs - batch.reference, batch, settings)
    if settings.averages:
        totals = batch.weights.new_zeros(batch.sequences).index_add(0, batch.owner, batch.weights)
        plain, compared = plain / totals, compared / totals
    return LogRatios(plain, compared, below)


def _bounded(ratios: "Tensor", batch: Batch, settings: TrainingConfig) -> "tuple[Tensor, Tensor]":
    """Sums over responses in which no token, or no sentence, of a rejected one is below the floor,
    and for every rejected one the share of these units that are."""
    import torch

    bound, weights, responses = settings.rejected_floor, batch.weights, batch.sequences
    if settings.rejected_floor_per == "sentence":
        unit, owner = batch.sentence, batch.sentence_owner
        floors = weights.new_full(owner.shape, -bound)
    else:
        unit, owner = torch.arange(len(ratios), device=ratios.device), batch.owner
        floors = -bound * weights
    floors = floors.where(owner >= responses // 2, -torch.inf)
    sums, below = floored_sums(ratios, weights, unit, owner, floors, responses)
    learnt = masked_sums(torch.ones_like(weights), weights, unit, len(owner)) > 0
    count = weights.new_zeros(responses)
    units = count.index_add(0, owner, learnt.to(count.dtype))
    at_floor = count.index_add(0, owner, below.to(count.dtype))
    return sums, (at_floor / units)[responses // 2 :]


def losses(
    log_probs: "Tensor",
    batch: Batch,
    settings: TrainingConfig,
    kl: KlEstimates | SentenceKl | None,
) -> "tuple[Tensor, dict[str, Tensor]]":
    """Loss of every pair ``[pairs]``, its weight in it, and what metrics are made of, ``[pairs]``.

    Args:
        log_probs: of the policy, fp32 ``[tokens]``.
        kl: of all pairs whose mean loss is wanted; ``kto_pair`` and ``fkto`` alone read it.
    """
    of_all = _of_pairs if settings.compares else _of_sentences
    result, values = of_all(log_probs, batch, settings, kl)
    if settings.anchor_weight:
        where = (batch.correct, batch.owner, batch.sequences)
        anchor = anchor_losses(settings, log_probs, batch.reference, *where)
        result = result + settings.anchor_weight * anchor
        values["anchor_loss"] = anchor.detach()
    return result * batch.pair_weights, values


def _of_pairs(
    log_probs: "Tensor", batch: Batch, settings: TrainingConfig, kl: KlEstimates | None
) -> "tuple[Tensor, dict[str, Tensor]]":
    where = (batch.weights, batch.owner, batch.sequences)
    ratios = log_ratios(log_probs, batch, settings)
    result = pair_losses(settings, *ratios.compared.chunk(2), kl, batch.gaps)
    nll, _ = masked_means(-log_probs, *where).chunk(2)
    if settings.nll_weight:
        result = result + settings.nll_weight * nll
    told = log_probs.detach()
    values = {
        "nll_loss": nll.detach(),
        **_sides("rewards", settings.beta * ratios.plain.detach()),
        "rewards/accuracies": larger(*ratios.plain.detach().chunk(2)),
        **_sides("logps", masked_sums(told, *where)),
        **_sides("log_ratios", masked_means(told - batch.reference, *where)),
    }
    if ratios.below is not None:
        values["at_floor/rejected"] = ratios.below
    return result, values


def larger(one: "Tensor", other: "Tensor | float") -> "Tensor":
    """Where the log-ratio ``one`` is the larger. A tie to rounding is half of it: where training
    starts, nothing is told apart."""
    apart = one - other
    return (apart > ROUNDING) + 0.5 * (apart.abs() <= ROUNDING)


class Sentences(NamedTuple):
    """Sentences of a pass, correct ones and incorrect ones, whichever answer they stand in."""

    log_ratios: "Tensor"  # [sentences]: sums in nats, or means per token
    correct: "Tensor"  # bool [sentences]
    pair: "Tensor"  # int64 [sentences]


def sentences(log_probs: "Tensor", batch: Batch, settings: TrainingConfig) -> Sentences:
    """What ``fkto`` is made of.

    Args:
        log_probs: of the policy, fp32 ``[tokens]``.
    """
    where = (batch.sentence, len(batch.sentence_owner))
    of_each = masked_means if settings.averages else masked_sums
    ratios = of_each(log_probs - batch.reference, batch.weights, *where)
    correct = masked_sums(batch.correct, batch.weights, *where) > 0
    return Sentences(ratios, correct, batch.sentence_owner % (batch.sequences // 2))


def _of_sentences(
    log_probs: "Tensor", batch: Batch, settings: TrainingConfig, kl: SentenceKl
) -> "tuple[Tensor, dict[str, Tensor]]":
    found = sentences(log_probs, batch, settings)
    zero = log_probs.new_zeros(batch.sequences // 2)

    def summed(values: "Tensor") -> "Tensor":
        return zero.index_add(0, found.pair, values)

    of_each = fkto_losses(settings, found.log_ratios, found.correct, kl)
    told, ratios = log_probs.detach(), found.log_ratios.detach()
    where = (batch.weights, batch.sentence, len(found.pair))
    of_sentences = {
        "rewards": settings.beta * ratios,
        "logps": masked_sums(told, *where),
        "log_ratios": masked_means(told - batch.reference, *where),
        "counted": ratios.new_ones(ratios.shape),
    }
    nll = masked_means(-told, *where)
    values = {
        "nll_loss": summed(nll * found.correct),
        "rewards/accuracies": summed(larger(ratios.where(found.correct, -ratios), 0.0)),
        **{
            f"{name}/{side}": summed(value * which)
            for name, value in of_sentences.items()
            for side, which in (("chosen", found.correct), ("rejected", ~found.correct))
        },
    }
    return summed(of_each) / kl.sentences, values


def _sides(name: str, of_responses: "Tensor") -> "dict[str, Tensor]":
    chosen, rejected = of_responses.chunk(2)
    return {f"{name}/chosen": chosen, f"{name}/rejected": rejected}
