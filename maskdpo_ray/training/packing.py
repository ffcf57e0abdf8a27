"""Sequences of a pass behind one another in one row: no padding is computed, none is stored.

A packed row carries the borders of its sequences (``cu_seq_lens``) and positions that begin again
at each. FlashAttention's varlen kernel reads the borders; for PyTorch's own attention this module
calls its causal kernel once per sequence, so nothing of the quadratic mask of a whole row exists.
"""

from typing import TYPE_CHECKING, Any

from maskdpo_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

PER_SEQUENCE_SDPA = "per_sequence_sdpa"
_LAYERS = {"full_attention", "sliding_attention"}


def use_packing(policy: "PreTrainedModel", packing: bool | None) -> bool:
    """Decide whether this policy's passes are packed, and make its attention read packed rows.

    Args:
        packing: None packs where it can be done.

    Raises:
        UserError: packing is asked for and this model or attention cannot do it.
    """
    if packing is False:
        return False
    obstacle = _obstacle(policy)
    if obstacle is not None:
        if packing:
            raise UserError(f"training.packing=true: {obstacle}. Leave the setting out")
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


def per_sequence_sdpa(
    module: Any,
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: "Tensor | None",
    cu_seq_lens_q: "Tensor | None" = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> "tuple[Tensor, None]":
    """Transformers' SDPA for every sequence of a packed row.

    Args:
        query, key, value: ``[1, heads, length, width]``.
        attention_mask: None; transformers makes masks for kernels it knows.
        cu_seq_lens_q: where sequences begin, and the end: int32 ``[sequences + 1]`` on the CPU.
        sliding_window: tokens that a token sees, itself included; None for all before it.

    Returns:
        ``[1, length, heads, width]``.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    sizes = cu_seq_lens_q.diff().tolist()
    outputs = []
    for q, k, v in zip(*(t.split(sizes, dim=2) for t in (query, key, value)), strict=True):
        mask = None
        if sliding_window is not None and q.shape[2] > sliding_window:
            ones = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
            mask = ones.tril().triu(1 - sliding_window)
        outputs.append(sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0])
    return torch.cat(outputs, dim=1), None
