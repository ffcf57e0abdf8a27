"""The masked DPO loss (Mask-DPO, equations 5 and 6)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def masked_log_ratios(
    policy: "Tensor", reference: "Tensor", weights: "Tensor", owner: "Tensor", responses: int
) -> "Tensor":
    """M of equation 6 for every response of a batch.

    M_w sums ``log pi_theta - log pi_ref`` over the tokens of the correct sentences of the chosen
    answer, M_l over those of the incorrect sentences of the rejected one. Which tokens these are
    is all in the weights. A sum, never a mean: a longer span counts for more, as in plain DPO.

    Args:
        policy, reference: log-probabilities of the response tokens, fp32 ``[tokens]``.
        weights: token weights ``[tokens]``; a token that is not listed has weight zero.
        owner: response that each token belongs to, int64 ``[tokens]`` in ``0 .. responses - 1``.

    Returns:
        ``[responses]``, in nats.
    """
    terms = weights * (policy - reference)
    return terms.new_zeros(responses).index_add(0, owner, terms)


def masked_dpo_loss(
    chosen_log_ratios: "Tensor",
    rejected_log_ratios: "Tensor",
    beta: float,
    label_smoothing: float = 0.0,
) -> "Tensor":
    """``-log sigmoid(beta M_w - beta M_l)`` of every pair (equation 5): ``[pairs]``.

    With all weights one this is vanilla DPO; where policy and reference agree it is ln 2. Label
    smoothing takes the preference to be flipped with that probability (conservative DPO).
    """
    from torch.nn.functional import logsigmoid

    margin = beta * (chosen_log_ratios - rejected_log_ratios)
    if label_smoothing == 0.0:
        return -logsigmoid(margin)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
