"""A causal language model that returns log-probabilities of chosen positions.

It never holds the logits of a whole batch (``head.py``), and is compared with the policy's own
logits when it is made (``exact.py``).
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from maskdpo_ray.errors import UserError
from maskdpo_ray.training.exact import (
    HeadNotMeasured,
    Probe,
    accepted,
    base_output,
    disagreement,
    measure_head,
    probe,
    require,
)
from maskdpo_ray.training.head import LogProbHead, own_gradient
from maskdpo_ray.training.packing import attention_arguments, packing_obstacle, read_packed_rows
from maskdpo_ray.training.routing import measure_routers, router_logits


class _Lookup(torch.autograd.Function):
    """An embedding whose gradient is added to the weight's own, row by row."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(weight, ids)
        ctx.padding = padding
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, None, None]:
        weight, ids = ctx.saved_tensors
        rows, ids = upstream.flatten(0, -2), ids.flatten()
        if ctx.padding is not None:
            rows = rows * (ids != ctx.padding)[:, None]
        own_gradient(weight).index_add_(0, ids, rows)
        return None, None, None


class LeanEmbedding(nn.Module):
    """An embedding over the very parameter of the one it replaces, with ``_Lookup``'s gradient."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.padding_idx = embedding.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        return _Lookup.apply(self.weight, ids, self.padding_idx)


class LogProbModel(nn.Module):
    """A causal language model that returns log-probabilities of chosen positions.

    Args:
        policy: a Hugging Face causal language model without dropout, where it can be computed: a
            few tokens are, in training mode, padded or packed, and compared with its own logits.
        chunk: see :func:`selected_log_probs`.
        packing: whether the sequences of a pass stand behind one another; ``auto`` where this
            model can be computed so. ``packed`` is the answer.
        router_aux_weight: of the auxiliary loss of the policy's routers; ``model`` is its own.
            ``routers`` is what there is then.

    Raises:
        UserError: ours would not be the log-probabilities of the policy itself, it is to be
            packed and cannot be, or it has no routers with such a loss.
    """

    def __init__(
        self,
        policy: nn.Module,
        chunk: int | None,
        packing: Literal["auto"] | bool = False,
        router_aux_weight: float | Literal["model"] = 0.0,
    ) -> None:
        super().__init__()
        head = policy.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            require(
                f"it has a {type(head).__name__} as its LM head, and training reads the weight of "
                "a plain linear head",
                policy,
            )
        own = probe(policy)
        try:
            self._shape = measure_head(policy, head)
        except HeadNotMeasured as error:
            require(str(error), policy)
        self.routers = measure_routers(policy, router_aux_weight)
        # Who computes activations twice to save memory has none for logits.
        keep = not getattr(policy, "is_gradient_checkpointing", False)
        policy.set_output_embeddings(LogProbHead(head, chunk, keep, self._shape))
        self.policy = policy
        self.packed = self._packs(packing, own)
        if not self.packed:
            require(disagreement(self, own, packed=False), policy)

    def _packs(self, packing: Literal["auto"] | bool, own: Probe) -> bool:
        if packing is False:
            return False
        obstacle = packing_obstacle(self.policy)
        if obstacle is None and self._shape.read is None:
            obstacle = f"{type(self.policy).__name__} has layers between its base and its LM head"
        if obstacle is None:
            attention = self.policy.config._attn_implementation
            read_packed_rows(self.policy)
            obstacle = disagreement(self, own, packed=True)
            if obstacle is None:
                return True
            self.policy.set_attn_implementation(attention)
        if packing is True:
            raise UserError(f"training.packing=true: {obstacle}. Set it to auto")
        return False

    def train(self, mode: bool = True) -> "LogProbModel":
        """Training mode, in which the policy computes as in evaluation: no noise of routers, no
        sampling of experts. Only layers that are to be computed again in backward must know."""
        super().train(False)
        self.training = mode
        for module in self.policy.modules() if mode else ():
            if getattr(module, "gradient_checkpointing", False):
                module.training = True
        return self

    def accumulate_in_place(self) -> None:
        """Add the gradients of head and embedding to ``weight.grad`` where they arise.

        Autograd would hold two more tensors of the vocabulary's size in every pass. Only for
        engines that read ``weight.grad`` when the step is done: ZeRO's hooks would see nothing.
        """
        head, embedding = self.policy.get_output_embeddings(), self.policy.get_input_embeddings()
        head.in_place = head.weight.requires_grad
        options = ("max_norm", "scale_grad_by_freq", "sparse")
        plain = type(embedding) is nn.Embedding and not any(getattr(embedding, o) for o in options)
        if plain and embedding.weight.requires_grad:
            self.policy.set_input_embeddings(LeanEmbedding(embedding))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        positions: Tensor,
        targets: Tensor,
        sizes: tuple[int, ...] | None = None,
        routed: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Log-probabilities of ``targets`` at ``positions``.

        Args:
            input_ids, attention_mask, position_ids: ``[rows, length]``, right padded; or one
                packed row and no mask.
            positions: indices into the flattened ``[rows * length]`` grid; the position *before*
                the token that it predicts, ``[selected]``.
            targets: the predicted token ids, ``[selected]``.
            sizes: tokens of every sequence of a packed row.
            routed: return what the routers did, too; there must be ``routers``.

        Returns:
            fp32 ``[selected]``, in nats. Where ``routed`` also ``Routers.sums`` of all tokens that
            are no padding.
        """
        if attention_mask is None:
            inputs = {"position_ids": position_ids, **attention_arguments(sizes, input_ids.device)}
        else:
            # Models count the positions of padded rows by themselves, some from another number.
            inputs = {"attention_mask": attention_mask}
        if routed:
            inputs["output_router_logits"] = True
        hidden, output = self._hidden(input_ids=input_ids, **inputs)
        selected = hidden.flatten(0, 1).index_select(0, positions)
        log_probs = self.policy.get_output_embeddings()(selected, targets)
        if not routed:
            return log_probs
        real = None if attention_mask is None else attention_mask.flatten().bool()
        return log_probs, self.routers.sums(router_logits(output), real)

    def _hidden(self, **inputs: Any) -> tuple[Tensor, Any]:
        """What the head reads, but for its ``read``, ``[rows, length, width]``; and all that the
        forward gave."""
        if self._shape.read is not None:
            output = base_output(self.policy, **inputs)
            return output.last_hidden_state, output
        with self.policy.get_output_embeddings().listening() as heard:
            output = self.policy(**accepted(self.policy, use_cache=False, **inputs))
        return heard[0], output
