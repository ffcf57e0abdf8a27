"""Sequences of a pass behind one another in one row: no padding is computed, none is stored.

A packed row carries the sizes of its sequences, and positions that begin again at each.
Varlen kernels on GPUs read the borders; elsewhere this module calls PyTorch's causal kernel once
per sequence, so nothing of the quadratic mask of a whole row exists.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

PACKED_SDPA = "packed_sdpa"
_NOT_COMPUTED = ("softcap", "s_aux", "position_bias")  # PyTorch's kernels drop them without a word
_LAYERS = {"full_attention", "sliding_attention"}


def read_packed_rows(policy: "PreTrainedModel") -> None:
    """Make a policy's attention read packed rows; there must be no :func:`packing_obstacle`."""
    if policy.config._attn_implementation == "sdpa":
        from transformers import AttentionInterface

        AttentionInterface.register(PACKED_SDPA, packed_sdpa)
        policy.set_attn_implementation(PACKED_SDPA)


def packing_obstacle(policy: "PreTrainedModel") -> str | None:
    """Why the sequences of a packed row would not be kept apart, as far as a look can tell."""
    config: PretrainedConfig = policy.config.get_text_config()
    attention = policy.config._attn_implementation
    if attention not in ("sdpa", "flash_attention_2", PACKED_SDPA):
        return f"attention {attention!r} cannot tell the sequences of a packed row apart"
    if not policy._supports_attention_backend:
        return f"{type(policy).__name__} computes attention in its own way"
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - _LAYERS:
        # Recurrent layers and the like would carry a sequence's state into the next one.
        return f"{type(policy).__name__} has layers of kind {', '.join(sorted(kinds - _LAYERS))}"
    return None


def attention_arguments(sizes: tuple[int, ...], device: Any) -> dict[str, Any]:
    """What the attention kernels want to know of a packed row, for the model's forward."""
    import torch

    borders = torch.tensor([0, *sizes]).cumsum(0).to(device, torch.int32)
    return {
        "sequence_sizes": sizes,
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(sizes),
        "max_length_k": max(sizes),
    }


def packed_sdpa(
    module: Any,
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: "Tensor | None",
    sequence_sizes: tuple[int, ...],
    cu_seq_lens_q: "Tensor",
    cu_seq_lens_k: "Tensor",
    max_length_q: int,
    max_length_k: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> "tuple[Tensor, None]":
    """PyTorch's attention over every sequence of a packed row, as a kernel of Transformers.

    Args:
        query, key, value: ``[1, heads, length, width]``.
        attention_mask: None; transformers makes masks for kernels it knows.
        sequence_sizes: tokens of every sequence of the row.
        cu_seq_lens_q, cu_seq_lens_k: where they begin and the last ends, int32 ``[sequences + 1]``.
        max_length_q, max_length_k: tokens of the longest.
        sliding_window: tokens that a token sees, itself included; None for all before it.

    Returns:
        ``[1, length, heads, width]``.
    """
    import torch

    if any(kwargs.get(name) is not None for name in _NOT_COMPUTED):
        raise ValueError(f"{type(module).__name__}: packed attention has no sinks and no soft cap")
    if _has_varlen(query.device, query.dtype, query.shape[-1]):
        from torch.nn.attention.varlen import varlen_attn

        # As the kernel counts, a window is of the tokens before this one.
        before = -1 if sliding_window is None else sliding_window - 1
        output = varlen_attn(
            *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),
            cu_seq_lens_q,
            cu_seq_lens_k,
            max_length_q,
            max_length_k,
            scale=scaling,
            window_size=(before, 0),
            enable_gqa=True,
        )
        return output[None], None

    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    parts = [tensor.split(sequence_sizes, dim=2) for tensor in (query, key, value)]
    outputs = []
    for q, k, v in zip(*parts, strict=True):
        mask = None
        if sliding_window is not None and q.shape[2] > sliding_window:
            ones = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
            mask = ones.tril().triu(1 - sliding_window)
        outputs.append(sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, **kwargs)[0])
    return torch.cat(outputs, dim=1), None


@cache
def _has_varlen(device: Any, dtype: Any, width: int) -> bool:
    """Whether PyTorch's varlen kernel, FlashAttention's, computes heads of this width there."""
    import torch

    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and width % 8 == 0
        and width <= 256
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
