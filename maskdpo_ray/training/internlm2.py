"""InternLM2 as the Llama that it is: same arithmetic, other names, queries, keys and values in one.

Its published code does not run with Transformers 5 (the rotary frequencies are whatever the memory
held) and cannot be saved. Weights are taken apart at load and put together again at export, to the
last bit. Source of the layout: InternLM2 (arXiv:2403.17297), its published modeling_internlm2.py.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskdpo_ray.training.base_files import BaseFiles

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaConfig, PreTrainedModel

MODEL_TYPE = "internlm2"
_NAMES = {
    "model.tok_embeddings": "model.embed_tokens",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_SAME = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range",
    "rms_norm_eps", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id",
    "tie_word_embeddings",
)  # fmt: skip


def is_internlm2(folder: Path) -> bool:
    return _values(folder).get("model_type") == MODEL_TYPE


def llama_config(folder: Path) -> "LlamaConfig":
    """The Llama of the same sizes."""
    from transformers import LlamaConfig

    values = _values(folder)
    scaling = dict(values.get("rope_scaling") or {})
    kind = scaling.pop("type", scaling.pop("rope_type", "default"))
    rope = {"rope_theta": values.get("rope_theta", 10000.0), "rope_type": kind, **scaling}
    same = {name: values[name] for name in _SAME if name in values}
    same.setdefault("tie_word_embeddings", False)
    bias = values.get("bias", True)  # of attention alone
    return LlamaConfig(**same, attention_bias=bias, rope_parameters=rope, name_or_path=str(folder))


def llama_weights(folder: Path, config: "LlamaConfig") -> "dict[str, Tensor]":
    """The weights under Llama's names."""
    base = BaseFiles(folder)
    weights = {}
    for name, tensor in base.tensors(set(base.shapes())):
        if ".wqkv." in name:
            # For each head of keys: the queries that share it, its keys, its values.
            by_head = tensor.unflatten(0, (config.num_key_value_heads, -1, config.head_dim))
            parts = (by_head[:, :-2], by_head[:, -2:-1], by_head[:, -1:])
            for letter, part in zip("qkv", parts, strict=True):
                renamed = name.replace("attention.wqkv", f"self_attn.{letter}_proj")
                weights[renamed] = part.flatten(0, 2).contiguous()
        else:
            weights[_renamed(name, _NAMES, "output.", "lm_head.")] = tensor
    return weights


def internlm2_weights(weights: "dict[str, Tensor]", config: "LlamaConfig") -> "dict[str, Tensor]":
    """The inverse of :func:`llama_weights`."""
    import torch

    back = {new: old for old, new in _NAMES.items()}
    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not (found := re.search(r"self_attn\.([qkv])_proj", name)):
            stored[_renamed(name, back, "lm_head.", "output.")] = tensor
        elif found[1] == "q":
            parts = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            shape = (config.num_key_value_heads, -1, config.head_dim)
            together = torch.cat([part.unflatten(0, shape) for part in parts], dim=1)
            stored[name.replace("self_attn.q_proj", "attention.wqkv")] = together.flatten(0, 2)
    return stored


def _renamed(name: str, names: dict[str, str], head: str, new_head: str) -> str:
    if name.startswith(head):
        return new_head + name.removeprefix(head)
    for old, new in names.items():
        if f"{old}." in name:
            return name.replace(f"{old}.", f"{new}.")
    return name


def load_internlm2(folder: Path, config: "LlamaConfig", **load: Any) -> "tuple[Any, dict]":
    """As ``from_pretrained`` with ``output_loading_info``."""
    from transformers import LlamaForCausalLM

    weights = llama_weights(folder, config)
    policy: PreTrainedModel
    policy, found = LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True, **load
    )
    policy.config.name_or_path = str(folder)
    return policy, found


def _values(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
