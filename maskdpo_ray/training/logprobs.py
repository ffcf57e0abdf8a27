"""Log-probabilities of chosen positions, without ever holding the logits of a whole batch.

With a vocabulary of 128 k the logits are most of the memory of DPO. Only positions with a
non-zero weight are projected, a chunk at a time, and the chunk is projected again in backward.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from maskdpo_ray.errors import UserError

# Settings by which a model changes its logits after the head. We project the head's input
# ourselves and would leave these out.
_LOGIT_CHANGES = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
    "logits_soft_cap": None,
}


class _SelectedLogProbs(torch.autograd.Function):
    """One autograd node for the whole projection.

    One node, and not one checkpoint per chunk: the weight's gradient is then accumulated once
    per backward pass, which ZeRO's reduction hooks rely on. The weight is saved as the leaf it
    is, so backward sees the data that ZeRO-3 has gathered again by then.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, chunk: int
    ) -> Tensor:
        precise = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        log_probs = hidden.new_empty(hidden.shape[0], dtype=precise)
        log_norms = torch.empty_like(log_probs)
        for part in _chunks(hidden.shape[0], chunk):
            logits = functional.linear(hidden[part], weight, bias).to(precise)
            log_norms[part] = logits.logsumexp(dim=-1)
            picked = logits.gather(1, targets[part, None]).squeeze(1)
            log_probs[part] = picked - log_norms[part]
        ctx.save_for_backward(hidden, targets, weight, bias, log_norms)
        ctx.chunk = chunk
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, weight, bias, log_norms = ctx.saved_tensors
        wants_hidden, _, wants_weight, wants_bias, _ = ctx.needs_input_grad
        precise = log_norms.dtype
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Summed in full precision: bf16 would lose the small terms of late chunks.
        grad_weight = torch.zeros_like(weight, dtype=precise) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=precise) if wants_bias else None
        for part in _chunks(hidden.shape[0], ctx.chunk):
            # d log p(target) / d logits = onehot(target) - softmax(logits)
            grad = functional.linear(hidden[part], weight, bias).to(precise)
            grad.sub_(log_norms[part, None]).exp_().neg_()
            grad.scatter_add_(1, targets[part, None], torch.ones_like(grad[:, :1]))
            grad.mul_(upstream[part, None])
            if wants_bias:
                grad_bias += grad.sum(dim=0)
            grad = grad.to(hidden.dtype)
            if wants_hidden:
                grad_hidden[part] = grad @ weight
            if wants_weight:
                grad_weight += grad.t() @ hidden[part]
        return (
            grad_hidden,
            None,
            grad_weight.to(weight.dtype) if wants_weight else None,
            grad_bias.to(bias.dtype) if wants_bias else None,
            None,
        )


def _chunks(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def selected_log_probs(
    hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None = None, chunk: int = 1024
) -> Tensor:
    """``log softmax(hidden @ weight.T + bias)[targets]``.

    Args:
        hidden: ``[positions, width]``, what the LM head reads.
        targets: token id that follows each position, int64 ``[positions]``.
        weight, bias: of the head, ``[vocabulary, width]`` and ``[vocabulary]``.
        chunk: positions projected at a time; peak memory is ``chunk * vocabulary * 4`` bytes
            a few times over.

    Returns:
        Natural log-probabilities in fp32 (float64 for float64 inputs), ``[positions]``.
    """
    return _SelectedLogProbs.apply(hidden, targets, weight, bias, chunk)


class LogProbHead(nn.Module):
    """The LM head, able to give log-probabilities instead of logits.

    The work happens inside the forward of the module that owns the weight, so that ZeRO-3
    gathers the weight before it is read, in forward and in backward. It holds the very parameter
    of the head it replaces: names and tied embeddings stay as they are.
    """

    def __init__(self, linear: nn.Linear, chunk: int) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.chunk = chunk

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            return functional.linear(hidden, self.weight, self.bias)
        return selected_log_probs(hidden, targets, self.weight, self.bias, self.chunk)


class LogProbModel(nn.Module):
    """A causal language model that returns log-probabilities of chosen positions.

    Args:
        policy: a Hugging Face causal language model whose logits are its LM head's output.
        chunk: see :func:`selected_log_probs`.

    Raises:
        UserError: if the model caps or scales its logits, or its head is no plain linear layer.
    """

    def __init__(self, policy: nn.Module, chunk: int) -> None:
        super().__init__()
        _check_plain_logits(policy)
        head = policy.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise UserError(
                f"{type(policy).__name__} has a {type(head).__name__} as its LM head; "
                "training reads the weight of a plain linear head"
            )
        policy.set_output_embeddings(LogProbHead(head, chunk))
        self.policy = policy

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        positions: Tensor,
        targets: Tensor,
    ) -> Tensor:
        """Log-probabilities of ``targets`` at ``positions``.

        Args:
            input_ids, attention_mask, position_ids: ``[rows, length]``, right padded.
            positions: indices into the flattened ``[rows * length]`` grid; the position *before*
                the token that it predicts, ``[selected]``.
            targets: the predicted token ids, ``[selected]``.

        Returns:
            fp32 ``[selected]``, in nats.
        """
        hidden = self.policy.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state
        selected = hidden.flatten(0, 1).index_select(0, positions)
        return self.policy.get_output_embeddings()(selected, targets)


def _check_plain_logits(policy: nn.Module) -> None:
    config = policy.config.get_text_config()
    for name, neutral in _LOGIT_CHANGES.items():
        value = getattr(config, name, None)
        if value is not None and value != neutral:
            raise UserError(
                f"{type(policy).__name__} sets {name}={value}: its logits are changed after the LM "
                "head, which training does not support. Use a model without this setting"
            )
