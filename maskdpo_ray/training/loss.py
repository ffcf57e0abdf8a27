"""The masked losses: DPO (Mask-DPO, equations 5 and 6) and its relatives, and the NLL term.

Every loss is a function of the masked log-ratios of a pair, M_w of the chosen and M_l of the
rejected answer. With all weights one it is the loss that carries its name elsewhere.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from maskdpo_ray.config import TrainingConfig


ROUNDING = 1e-3  # nats: log-ratios no further apart may be equal


class KlEstimates(NamedTuple):
    """What ``kto_pair`` compares a pair with: see :func:`kl_estimates`. In nats."""

    chosen: float
    rejected: float


class SentenceKl(NamedTuple):
    """What ``fkto`` compares a sentence with: the mean of all of the global batch, at least zero,
    in nats; and how many of them there are for one pair."""

    estimate: float
    sentences: float


def masked_sums(values: "Tensor", weights: "Tensor", owner: "Tensor", responses: int) -> "Tensor":
    """Weighted sums of values of tokens, for every response of a batch: ``[responses]``.

    Args:
        values: ``[tokens]``.
        weights: token weights ``[tokens]``; a token that is not listed has weight zero.
        owner: response that each token belongs to, int64 ``[tokens]`` in ``0 .. responses - 1``.
    """
    terms = weights * values
    return terms.new_zeros(responses).index_add(0, owner, terms)


def masked_log_ratios(
    policy: "Tensor", reference: "Tensor", weights: "Tensor", owner: "Tensor", responses: int
) -> "Tensor":
    """M of equation 6 for every response of a batch.

    M_w sums ``log pi_theta - log pi_ref`` over the tokens of the correct sentences of the chosen
    answer, M_l over those of the incorrect sentences of the rejected one. Which tokens these are
    is all in the weights. A sum, never a mean: a longer span counts for more, as in plain DPO.

    Args:
        policy, reference: log-probabilities of the response tokens, fp32 ``[tokens]``.
        weights, owner, responses: as in :func:`masked_sums`.

    Returns:
        ``[responses]``, in nats.
    """
    return masked_sums(policy - reference, weights, owner, responses)


def masked_means(values: "Tensor", weights: "Tensor", owner: "Tensor", responses: int) -> "Tensor":
    """Weighted means over the tokens that count: sums divided by the response's total weight.

    The divisor is the total weight, never the length of the answer: with 0/1 weights it is the
    number of tokens in the sum.
    """
    totals = weights.new_zeros(responses).index_add(0, owner, weights)
    return masked_sums(values, weights, owner, responses) / totals


def floored_sums(
    values: "Tensor",
    weights: "Tensor",
    group: "Tensor",
    group_owner: "Tensor",
    floors: "Tensor",
    responses: int,
) -> "tuple[Tensor, Tensor]":
    """Sums over the groups of a response, each no lower than its floor, for every response.

    ``sum over groups g of max(floor_g, sum over tokens t of g of w_t v_t)``. A group below its
    floor passes no gradient: what has been pushed down that far is pushed no further.

    Args:
        values, weights: ``[tokens]``.
        group: group that each token belongs to, int64 ``[tokens]``: its sentence, or itself.
        group_owner: response that each group belongs to, int64 ``[groups]``.
        floors: ``[groups]``, minus infinity for a group that is not bounded.

    Returns:
        The sums ``[responses]``, and which groups lie below their floors, bool ``[groups]``.
    """
    sums = masked_sums(values, weights, group, len(floors))
    below = sums < floors
    bounded = floors.where(below, sums)
    return bounded.new_zeros(responses).index_add(0, group_owner, bounded), below


def fall(log_ratios: "Tensor") -> "Tensor":
    """``max(0, -log_ratios)``, where a fall of less than 1e-3 nats is none.

    Its kink at zero is just where training starts. There rounding would decide what is pulled up.
    """
    return (-log_ratios).where(log_ratios < -ROUNDING, 0.0)


def anchor_losses(
    settings: "TrainingConfig",
    log_probs: "Tensor",
    reference: "Tensor",
    correct: "Tensor",
    owner: "Tensor",
    responses: int,
) -> "Tensor":
    """What holds the correct sentences of both answers of a pair up, per token: ``[pairs]``.

    With c the weight of a token in a correct sentence of either answer, ``sum c a / sum c``, where
    a is ``-log pi`` (``anchor: nll``, as RPO's term for the chosen answer alone) or
    ``max(0, log pi_ref - log pi)`` (``anchor: reference``): nothing as long as a token is no less
    likely than under the reference, as DPOP's penalty, but per token and outside the sigmoid. It is
    zero for a pair without a correct sentence.

    Args:
        log_probs, reference: ``[tokens]``, in nats.
        correct: c, ``[tokens]``.
        owner, responses: as in :func:`masked_sums`, the chosen answers first.
    """
    fallen = -log_probs if settings.anchor == "nll" else fall(log_probs - reference)
    totals = correct.new_zeros(responses).index_add(0, owner, correct)
    of_pairs = masked_sums(fallen, correct, owner, responses).view(2, -1).sum(dim=0)
    totals = totals.view(2, -1).sum(dim=0)
    return of_pairs / totals.where(totals > 0, 1.0)


def pair_losses(
    settings: "TrainingConfig",
    chosen: "Tensor",
    rejected: "Tensor",
    kl: KlEstimates | None = None,
    gaps: "Tensor | float" = 0.0,
) -> "Tensor":
    """Loss of every pair under ``settings.loss``: ``[pairs]``.

    Args:
        chosen, rejected: masked log-ratios ``[pairs]``: sums, or means per token.
        kl: of the global batch; ``kto_pair`` alone reads it.
        gaps: between the scores of the answers ``[pairs]``; ``settings.gap_margin`` reads it.
    """
    beta, smoothing = settings.beta, settings.label_smoothing
    margin = settings.margin + settings.gap_margin * gaps
    if settings.dpop_weight:
        chosen = chosen - settings.dpop_weight * fall(chosen)
    match settings.loss:
        case "sigmoid":
            return masked_dpo_loss(chosen, rejected, beta, smoothing, margin)
        case "robust":
            return robust_loss(chosen, rejected, beta, smoothing)
        case "hinge":
            return hinge_loss(chosen, rejected, beta, margin)
        case "ipo":
            return ipo_loss(chosen, rejected, beta)
        case "kto_pair":
            return kto_pair_loss(chosen, rejected, beta, kl)
        case "sppo_hard":
            return sppo_hard_loss(chosen, rejected, beta)
        case "nca_pair":
            return nca_pair_loss(chosen, rejected, beta)
        case "cal_dpo":
            return cal_dpo_loss(chosen, rejected, beta)


def masked_dpo_loss(
    chosen_log_ratios: "Tensor",
    rejected_log_ratios: "Tensor",
    beta: float,
    label_smoothing: float = 0.0,
    margin: "Tensor | float" = 0.0,
) -> "Tensor":
    """``-log sigmoid(beta M_w - beta M_l - margin)`` of every pair (equation 5): ``[pairs]``.

    With all weights one and no margin this is vanilla DPO; where policy and reference agree it is
    ln 2, or ``log(1 + exp(margin))``. Label smoothing takes the preference to be flipped with that
    probability (conservative DPO).

    With means of log-probabilities (``reference_free``) and a constant margin gamma it is SimPO
    (arXiv:2405.14734, eq. 6). With a margin that is a multiple of the gap in factuality it is F-DPO
    (arXiv:2601.03027), whose lambda stands within beta: that multiple is beta times its lambda,
    and the gap, there 0 or 1, is the difference of two scores. With ``M_w - lambda max(0, -M_w)``
    for M_w it is DPOP (arXiv:2402.13228, eq. 3).
    """
    from torch.nn.functional import logsigmoid

    logits = beta * (chosen_log_ratios - rejected_log_ratios) - margin
    if label_smoothing == 0.0:
        return -logsigmoid(logits)
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def robust_loss(
    chosen: "Tensor", rejected: "Tensor", beta: float, label_smoothing: float
) -> "Tensor":
    """Unbiased under preferences flipped with that probability (rDPO, arXiv:2403.00409).

    ``((1 - e) L(w, l) - e L(l, w)) / (1 - 2e)`` with L of :func:`masked_dpo_loss`. Its minimum
    over the margin is finite, and the loss may be negative.
    """
    right = masked_dpo_loss(chosen, rejected, beta)
    flipped = masked_dpo_loss(rejected, chosen, beta)
    return ((1 - label_smoothing) * right - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def hinge_loss(
    chosen: "Tensor", rejected: "Tensor", beta: float, margin: "Tensor | float" = 0.0
) -> "Tensor":
    """``max(0, 1 + margin - beta (M_w - M_l))`` (SLiC-HF, arXiv:2305.10425): without a margin it
    ends at 1/beta nats."""
    return (1 + margin - beta * (chosen - rejected)).relu()


def ipo_loss(chosen: "Tensor", rejected: "Tensor", beta: float) -> "Tensor":
    """``(m_w - m_l - 1 / (2 beta))^2`` (IPO, arXiv:2310.12036, eq. 17; beta is its tau).

    Unless told otherwise m are means per token that counts, as in the released code: the target
    1/(2 beta) is one constant for answers of all lengths.
    """
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def kl_estimates(mean_chosen: float, mean_rejected: float) -> KlEstimates:
    """KL estimates of ``kto_pair`` (KTO, arXiv:2402.01306): means of M, at least zero.

    Args:
        mean_chosen, mean_rejected: of M_w and M_l over the *global* batch.
    """
    return KlEstimates(max(0.0, mean_chosen), max(0.0, mean_rejected))


def kto_pair_loss(chosen: "Tensor", rejected: "Tensor", beta: float, kl: KlEstimates) -> "Tensor":
    """Half of ``1 - sigmoid(beta (M_w - KL_l)) + 1 - sigmoid(beta (KL_w - M_l))``.

    Each side is compared with the KL estimate of the other one. No gradient passes through the
    estimates (as in KTO): they are zero where training starts, just where the cut at zero
    has its kink, and rounding would decide on the direction of the first step.
    """
    desired = 1 - (beta * (chosen - kl.rejected)).sigmoid()
    undesired = 1 - (beta * (kl.chosen - rejected)).sigmoid()
    return (desired + undesired) / 2


def fkto_losses(
    settings: "TrainingConfig", log_ratios: "Tensor", correct: "Tensor", kl: SentenceKl
) -> "Tensor":
    """``1 - sigmoid(beta (R - K))`` of a correct sentence, ``1 - sigmoid(beta (K - R))`` of an
    incorrect one: ``[sentences]``.

    The sentence-level term of fKTO (FactAlign, arXiv:2410.01691), whose unit is the sentence and
    not the pair: R is its log-ratio, in its answer's context. K stands for the KL divergence. It is
    the mean of R over the sentences of the step, at least zero, where the paper takes sentences
    that belong to other prompts; no gradient passes through it.

    Args:
        log_ratios: R, ``[sentences]``.
        correct: bool ``[sentences]``.
    """
    apart = settings.beta * (log_ratios - kl.estimate)
    undesired = settings.incorrect_weight * (1 - (-apart).sigmoid())
    return (1 - apart.sigmoid()).where(correct, undesired)


def sppo_hard_loss(chosen: "Tensor", rejected: "Tensor", beta: float) -> "Tensor":
    """``(M_w - 1/(2 beta))^2 + (M_l + 1/(2 beta))^2`` (SPPO, arXiv:2405.00675, eq. 4.7).

    The winner wins with probability one; beta is 1/eta of that paper.
    """
    return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


def nca_pair_loss(chosen: "Tensor", rejected: "Tensor", beta: float) -> "Tensor":
    """``-log s(beta M_w) - log s(-beta M_w) / 2 - log s(-beta M_l) / 2``, s the sigmoid.

    Pairwise noise contrastive alignment (arXiv:2402.05369): it holds the chosen answer's own
    likelihood up, and not only the difference.
    """
    from torch.nn.functional import logsigmoid

    won, lost = beta * chosen, beta * rejected
    return -logsigmoid(won) - 0.5 * logsigmoid(-won) - 0.5 * logsigmoid(-lost)


def cal_dpo_loss(chosen: "Tensor", rejected: "Tensor", beta: float) -> "Tensor":
    """``-log sigmoid(M_w - M_l) + (M_w - 1/(2 beta))^2 + (M_l + 1/(2 beta))^2``.

    Cal-DPO (arXiv:2412.14516): the log-ratios themselves have targets, and not their difference
    alone. Its released code takes half of the squares, in means over a pass.
    """
    return masked_dpo_loss(chosen, rejected, 1.0) + sppo_hard_loss(chosen, rejected, beta)
