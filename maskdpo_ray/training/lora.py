"""Low-rank adapters (LoRA, arXiv:2106.09685) through peft: the base is frozen, they alone learn.

The adapters are put into the policy in place, so that everything that trains, saves and resumes
named parameters works on them as on any others. They begin as nothing: a policy with fresh
adapters is its own reference.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskdpo_ray.config import LoraConfig, ModelConfig
from maskdpo_ray.errors import UserError, first_line
from maskdpo_ray.training.model import load_policy

_MAMBA = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def add_adapters(policy: "PreTrainedModel", settings: LoraConfig, seed: int) -> None:
    """Freeze the policy and put trainable adapters beside its linear layers, in place.

    Args:
        policy: on the CPU.
        seed: of the adapters' first values, so that all workers begin with the same.

    Raises:
        UserError: a target is not there or no linear layer.
    """
    import peft
    import torch

    _check_targets(policy, settings.target_modules)
    every = settings.target_modules == "all-linear"
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=settings.target_modules,
        exclude_modules=(_not_adaptable(policy) or None) if every else None,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(config, policy)
        except ValueError as error:
            raise UserError(f"training.lora.target_modules: {first_line(error)}") from None


def save_adapters(
    policy: "PreTrainedModel", weights: "dict[str, Tensor]", base: str, folder: Path
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, as peft reads them.

    Args:
        policy: with adapters; its own weights may be sharded away.
        weights: of the adapters, by their names in the policy.
        base: what the adapters belong to: a folder or a hub id.
    """
    from dataclasses import replace

    from safetensors.torch import save_file

    named = {f"base_model.model.{n.replace('.default.', '.')}": t for n, t in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = policy.peft_config["default"]
    replace(config, base_model_name_or_path=base, inference_mode=True).save_pretrained(folder)


def merged(
    policy: "PreTrainedModel", weights: "dict[str, Tensor]", model: ModelConfig
) -> "PreTrainedModel":
    """The base, read again on the CPU, with the adapters added into its weights.

    The sum is rounded to the model's dtype once. Arguments as of :func:`save_adapters`.
    """
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as folder:
        save_adapters(policy, weights, model.path, Path(folder))
        adapted = PeftModel.from_pretrained(load_policy(model), folder)
    return adapted.merge_and_unload()


def _not_adaptable(policy: "PreTrainedModel") -> list[str]:
    """Linear layers that all-linear passes over: those of a kind of the model's own that compute
    more than a product with their weight; outputs of Mamba layers, whose kernels read the weight
    past the layer (peft refuses them); parts that no text passes through."""
    from torch import nn

    linear = {n: m for n, m in policy.named_modules() if isinstance(m, nn.Linear)}
    return [
        name
        for name, module in linear.items()
        if not _is_product(module)
        or (policy.config.model_type in _MAMBA and name.endswith(".out_proj"))
        or not any(p.requires_grad or not p.is_floating_point() for p in module.parameters())
    ]


def _is_product(linear: Any) -> bool:
    """Whether a layer computes what its name says."""
    import torch
    from torch.nn import functional

    if type(linear).__module__.startswith(("torch.", "bitsandbytes.")):
        return True
    weight, bias = linear.weight, linear.bias
    asked = torch.linspace(-1, 1, weight.shape[1], dtype=weight.dtype, device=weight.device)[None]
    with torch.no_grad():
        try:
            found = linear(asked)
        except (TypeError, ValueError, RuntimeError):  # it wants more than one input
            return False
        wanted = functional.linear(asked, weight, bias)
    close = 4 * torch.finfo(weight.dtype).eps * float(wanted.abs().max())
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=0, atol=close)


def _check_targets(policy: "PreTrainedModel", names: list[str] | str) -> None:
    """peft skips a name that fits no module as long as another one fits."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(names, str):
        return
    head = policy.get_output_embeddings()
    linear = {
        path: module
        for path, module in policy.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path in linear):
            raise UserError(
                f"training.lora.target_modules: {name!r} is no linear layer of "
                f"{type(policy).__name__} (the LM head is none that can be adapted); it has "
                f"{', '.join(sorted({path.rpartition('.')[2] for path in linear}))}"
            )
