"""Sequences of a pass behind one another in one row: no padding is computed, none is stored.

A packed row carries the sizes of its sequences, and positions that begin again at each.
FlashAttention's varlen kernel reads the borders; for PyTorch's own attention this module
calls its causal kernel once per sequence, so nothing of the quadratic mask of a whole row exists.
"""

from typing import TYPE_CHECKING, Any, Literal

from maskdpo_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

PER_SEQUENCE_SDPA = "per_sequence_sdpa"
_LAYERS = {"full_attention", "sliding_attention"}


def use_packing(policy: "PreTrainedModel", packing: Literal["auto"] | bool) -> bool:
    """Decide whether this policy's passes are packed, and make its attention read packed rows.

    Args:
        packing: ``auto`` packs where it can be done.

    Raises:
        UserError: packing is asked for and this model or attention cannot do it.
    """
    if packing is False:
        return False
    obstacle = _obstacle(policy)
    if obstacle is not None:
        if packing is True:
            raise UserError(f"training.packing=true: {obstacle}. Set it to auto")
        return False
    if policy.config._attn_implementation == "sdpa":
        from transformers import AttentionInterface

        AttentionInterface.register(PER_SEQUENCE_SDPA, per_sequence_sdpa)
        policy.set_attn_implementation(PER_SEQUENCE_SDPA)
    return True


def _obstacle(policy: "PreTrainedModel") -> str | None:
    config: PretrainedConfig = policy.config.get_text_config()
    attention = policy.config._attn_implementation
    if attention not in ("sdpa", "flash_attention_2", PER_SEQUENCE_SDPA):
        return f"attention {attention!r} cannot tell the sequences of a packed row apart"
    if not policy._supports_attention_backend:
        return f"{type(policy).__name__} computes attention in its own way"
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - _LAYERS:
        # Recurrent layers and the like would carry a sequence's state into the next one.
        return f"{type(policy).__name__} has layers of kind {', '.join(sorted(kinds - _LAYERS))}"
    return None


def attention_arguments(sizes: tuple[int, ...], device: Any) -> dict[str, Any]:
    """What both attention kernels want to know of a packed row, for the model's forward."""
    import torch

    borders = torch.tensor([0, *sizes]).cumsum(0).to(device, torch.int32)
    return {
        "sequence_sizes": sizes,
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(sizes),
        "max_length_k": max(sizes),
    }


def per_sequence_sdpa(
    module: Any,
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: "Tensor | None",
    sequence_sizes: tuple[int, ...],
    sliding_window: int | None = None,
    **kwargs: Any,
) -> "tuple[Tensor, None]":
    """Transformers' SDPA for every sequence of a packed row.

    Args:
        query, key, value: ``[1, heads, length, width]``.
        attention_mask: None; transformers makes masks for kernels it knows.
        sequence_sizes: tokens of every sequence of the row.
        sliding_window: tokens that a token sees, itself included; None for all before it.

    Returns:
        ``[1, length, heads, width]``.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    parts = [tensor.split(sequence_sizes, dim=2) for tensor in (query, key, value)]
    borders = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
    kwargs = {name: value for name, value in kwargs.items() if name not in borders}
    outputs = []
    for q, k, v in zip(*parts, strict=True):
        mask = None
        if sliding_window is not None and q.shape[2] > sliding_window:
            ones = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
            mask = ones.tril().triu(1 - sliding_window)
        outputs.append(sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0])
    return torch.cat(outputs, dim=1), None
