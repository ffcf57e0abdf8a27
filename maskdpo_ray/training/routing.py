"""How evenly a mixture of experts is used: the auxiliary loss of its routers.

Of a whole step, with E experts, N tokens times layers with a router, and P a router's softmax,

    aux = E * sum over experts e of f_e * p_e
    f_e = how often e is among the experts of a token, divided by N (a constant)
    p_e = the mean of P_e over these tokens and layers

This is Switch Transformer's loss (arXiv:2101.03961, eq. 4 to 6) as Transformers computes it, over
all tokens of a step that are read, padding never among them. Shares of a whole step are what
balances experts without making all of them serve every text (arXiv:2501.11873); and with f known
beforehand, from a forward without gradients, the rest is a sum over tokens: the same however the
step is cut into passes and dealt to workers.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from maskdpo_ray.errors import UserError
from maskdpo_ray.training.exact import accepted, base_output, evaluating, probe_ids

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

_SETTING = "training.router_aux_weight"


@dataclass(frozen=True)
class Routers:
    """Of a policy: how many experts, how many of them for a token, and the weight of the loss."""

    experts: int
    chosen: int
    weight: float

    def sums(self, logits: tuple[Tensor, ...], real: Tensor | None) -> Tensor:
        """Over the tokens and layers of a pass, ``[2, experts]``: how often each expert is among
        those of a token, and its probability, which alone has a gradient.

        Args:
            logits: of every layer with a router, ``[tokens, experts]`` in any shape.
            real: which tokens are no padding, bool ``[tokens]``; None for all.
        """
        return _sums(logits, real, self.experts, self.chosen)

    def balance(self, counted: "np.ndarray") -> "Balance":
        """What the loss of a step is made with.

        Args:
            counted: how often each expert is chosen in the whole step, ``[experts]``.
        """
        tokens = counted.sum() / self.chosen
        return Balance(torch.from_numpy(self.experts * counted / tokens**2), self.weight)


@dataclass(frozen=True)
class Balance:
    """What a probability adds to the auxiliary loss of a step, ``[experts]``; and its weight."""

    slopes: Tensor
    weight: float

    def of_pass(self, sums: Tensor) -> Tensor:
        """What a pass adds, from its ``Routers.sums``: a scalar. Those of all passes of a step, on
        all workers, add up to ``aux``."""
        return (self.slopes.to(sums.device, sums.dtype) * sums[1]).sum()


def _sums(logits: tuple[Tensor, ...], real: Tensor | None, experts: int, chosen: int) -> Tensor:
    precise = torch.float64 if logits[0].dtype == torch.float64 else torch.float32
    total = logits[0].new_zeros(2, experts, dtype=precise)
    for layer in logits:
        rows = layer.reshape(-1, experts).to(total)
        rows = rows if real is None else rows[real]
        # Of logits: of probabilities more are equal, and which one is chosen would be chance.
        often = torch.zeros_like(rows).scatter_(1, rows.topk(chosen, dim=-1).indices, 1.0)
        total = total + torch.stack([often.sum(0), rows.softmax(-1).sum(0)])
    return total


def measure_routers(policy: Any, weight: float | Literal["model"]) -> Routers | None:
    """The routers of a policy, such that our loss of a few tokens is the policy's own.

    Args:
        policy: with its own LM head.
        weight: of the loss; ``model`` is what its configuration says. None is returned for 0.

    Raises:
        UserError: the model computes no such loss, or another one.
    """
    if weight == 0:
        if getattr(policy.config.get_text_config(), "output_router_logits", False):
            log.warning(
                "the model's configuration asks for its routers' auxiliary loss "
                "(output_router_logits), and %s=0 leaves it out: set it to model",
                _SETTING,
            )
        return None
    weight = _own_weight(policy) if weight == "model" else weight
    ids = probe_ids(policy, 2, policy.device)
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with torch.no_grad(), evaluating(policy):
        own = _own_loss(policy, asked)
        logits = router_logits(base_output(policy, **asked, output_router_logits=True))
    if own is None or not logits:
        raise UserError(
            f"{_SETTING}: {type(policy).__name__} computes no auxiliary loss of routers: remove "
            "the setting"
        )
    experts = logits[0].shape[-1]
    # How many are asked per token has another name in every family: it is seen from the loss.
    for chosen in range(1, experts + 1):
        routers = Routers(experts, chosen, weight)
        sums = routers.sums(logits, None)
        ours = float(routers.balance(sums[0].double().cpu().numpy()).of_pass(sums))
        close = 1e-4 if logits[0].dtype == torch.float32 else 0.02
        if abs(ours - own) <= close * abs(own):
            return routers
    raise UserError(
        f"{_SETTING}: {type(policy).__name__} computes another auxiliary loss ({own:.4g} of a few "
        "tokens) than that of Switch Transformer: remove the setting"
    )


def router_logits(output: Any) -> tuple[Tensor, ...] | None:
    """Of every layer that has a router; None where the model gives none."""
    given = getattr(output, "router_logits", None)
    given = given if isinstance(given, (tuple, list)) else ()
    return tuple(layer for layer in given if isinstance(layer, Tensor)) or None


def _own_loss(policy: Any, asked: dict[str, Any]) -> float | None:
    try:
        output = policy(**accepted(policy, **asked, output_router_logits=True))
    except (TypeError, ValueError):  # no model of experts
        return None
    loss = getattr(output, "aux_loss", None)
    return float(loss) if isinstance(loss, Tensor) else None


def _own_weight(policy: Any) -> float:
    for place in (policy.config.get_text_config(), policy.config, policy):
        for name in ("router_aux_loss_coef", "aux_loss_coef"):
            weight = getattr(place, name, None)
            if isinstance(weight, (int, float)) and weight > 0:
                return float(weight)
    raise UserError(
        f"{_SETTING}=model: the configuration of {type(policy).__name__} names no weight "
        "(router_aux_loss_coef): give a number, or remove the setting"
    )
