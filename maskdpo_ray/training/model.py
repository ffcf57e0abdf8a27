"""Load the policy for training and for its reference log-probabilities."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskdpo_ray.config import ModelConfig, TrainingConfig
from maskdpo_ray.errors import UserError, first_line
from maskdpo_ray.identity import hub_snapshot
from maskdpo_ray.imports import lasting_imports
from maskdpo_ray.model_files import local_folder
from maskdpo_ray.training.internlm2 import is_internlm2, llama_config, load_internlm2

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)


def local_snapshot(path: str, revision: str | None = None) -> Path:
    """Folder of a model: the path itself, or the local copy of a URL or a hub id.

    Raises:
        UserError: one line, if there is neither.
    """
    folder = Path(local_folder(path))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is no model: it has no config.json")
        return folder.resolve()
    return hub_snapshot(path, revision, ignore_patterns=["*.gguf", "*.pth"])


PLAIN = TrainingConfig()


def load_policy(model: ModelConfig, settings: TrainingConfig = PLAIN) -> "PreTrainedModel":
    """The policy on the CPU, dropout off, in the dtype of the configuration; in 4 bits on the GPU
    where there is one.

    Dropout would make the policy differ from its own reference at step 0. Every worker of a node
    holds a whole copy in host memory until the engine shards it, under ZeRO 3 too: loading in
    shards rounds the rotary frequencies to bfloat16, and the policy is no longer its reference.

    Raises:
        UserError: there is no such model, or this node cannot compute such attention or has no
            such kernels.
    """
    with lasting_imports():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

    if settings.attention == "flash_attention_2":
        _check_flash_attention()
    if settings.use_liger_kernel:
        _check_liger()
    folder = local_snapshot(_required(model.path), model.revision)
    load = {
        "dtype": getattr(torch, model.dtype),
        **(_in_4_bits(model.dtype) if settings.load_in_4bit else {}),
    }
    trust = {"trust_remote_code": model.trust_remote_code}
    with _told(f"{model.path} cannot be loaded"):
        if is_internlm2(folder):
            config, loaded = llama_config(folder), load_internlm2
        else:
            config = AutoConfig.from_pretrained(folder, **trust)
            loaded = partial(
                AutoModelForCausalLM.from_pretrained, output_loading_info=True, **trust
            )
        _refuse_quantized(config, folder)
        switch_noise_off(config)
        load["attn_implementation"] = attention_of(config, settings.attention)
        policy, found = loaded(folder, config=config, **load)
    _check_whole(policy, found)
    for module in policy.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    set_right_buffers(policy)
    if settings.load_in_4bit:
        _compute_in_one_way(policy)
    if settings.use_liger_kernel:
        _use_liger(policy)
    if settings.gradient_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


_NOISE = ("dropout", "pdrop", "layerdrop", "drop_path")


def switch_noise_off(config: "PretrainedConfig") -> None:
    """Set what would make two forwards of one input differ to zero, in all parts of a
    configuration. Not routers' noise, which some read in evaluation too: PhiMoE's is a threshold.
    ``LogProbModel`` trains in evaluation mode, where there is none."""
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and any(noise in name for noise in _NOISE):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict"):
            switch_noise_off(value)


def attention_of(config: "PretrainedConfig", wanted: str) -> str:
    """The attention kernel: what is wanted, or for ``auto`` PyTorch's, or the model's own where
    its attention is more than PyTorch's computes.

    Raises:
        UserError: PyTorch's is wanted, and would leave something out.
    """
    missing = _beyond_sdpa(config)
    if wanted == "auto":
        if missing:
            log.warning("attention is computed by the model's own code (eager): it %s", missing)
        return "eager" if missing else "sdpa"
    if wanted == "sdpa" and missing:
        raise UserError(
            f"training.attention=sdpa: this model {missing}: set training.attention=auto"
        )
    return wanted


def _beyond_sdpa(config: "PretrainedConfig") -> str | None:
    """What a model's attention does that PyTorch's kernel does not; it would drop a soft cap
    without a word."""
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    for name, value in vars(text).items():
        if value and "attn" in name and "softcap" in name:
            return f"caps its attention ({name}={value:g}), which PyTorch's kernel cannot"
    kind = AutoModelForCausalLM._model_mapping.get(type(config), None)
    kinds = kind if isinstance(kind, (tuple, list)) else [kind]
    if any(each is not None and not each._supports_sdpa for each in kinds):
        return "has no other"
    return None


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Transformers, and code that a model brings, answer what they cannot load with any of these;
    all are for a person to mend."""
    from huggingface_hub.errors import StrictDataclassError
    from torch import OutOfMemoryError

    from maskdpo_ray.training.exact import BROKEN

    try:
        yield
    except OutOfMemoryError:
        raise
    except (*BROKEN, OSError, StrictDataclassError) as error:
        raise UserError(f"{what}: {first_line(error)}") from error


def _refuse_quantized(config: "PretrainedConfig", folder: Path) -> None:
    """Raise ``UserError`` for weights that cannot learn, and whose export would be another base."""
    how = getattr(config, "quantization_config", None)
    if how is not None:
        kind = how.get("quant_method", how) if isinstance(how, dict) else how
        raise UserError(
            f"the weights of {folder} are quantized ({kind}) and cannot learn: give the model in "
            "bfloat16 or float32"
        )


def _check_whole(policy: "PreTrainedModel", found: dict[str, Any]) -> None:
    """Raise ``UserError`` where weights were not in the files, and are random."""
    lacking = sorted(found["missing_keys"]) + sorted(str(m) for m in found["mismatched_keys"])
    if lacking:
        raise UserError(
            f"{type(policy).__name__} ({policy.config.name_or_path}): {len(lacking)} weights are "
            f"not in its files, or have another shape there, first {lacking[0]}: they would be "
            "random. The files are of another kind of model, or incomplete"
        )


def set_right_buffers(policy: "PreTrainedModel") -> None:
    """Give buffers that are not in the files (rotary frequencies, masks) what the model's own code
    computes for them: loading leaves those of some remote code as it found the memory."""
    import torch
    from accelerate import init_empty_weights

    saved = set(policy.state_dict())
    computed = {n: b for n, b in policy.named_buffers() if n not in saved}
    if not computed:
        return
    usual = torch.get_default_dtype()
    torch.set_default_dtype(policy.dtype if policy.dtype.is_floating_point else usual)
    try:
        with init_empty_weights(include_buffers=False), torch.no_grad():
            fresh = dict(type(policy)(policy.config).named_buffers())
    finally:
        torch.set_default_dtype(usual)
    wrong = [n for n, b in computed.items() if n in fresh and not _same(b, fresh[n])]
    for name in wrong:
        computed[name].data = fresh[name].to(computed[name].device)
    if wrong:
        log.warning("%d buffers were loaded wrong and are computed anew: %s", len(wrong), wrong[0])


def freeze_unread(policy: "PreTrainedModel") -> None:
    """Freeze the parts of a larger model that no text passes through (a vision tower): training
    would hold moments for them, and let them decay."""
    import torch

    if policy.config.get_text_config() is policy.config:
        return
    base = policy.base_model
    parts = {part for each in (policy, base) for part in each.children()} - {base}
    read: set[torch.nn.Module] = set()
    hooks = [
        module.register_forward_hook(lambda *_, part=part: read.add(part))
        for part in parts
        for module in part.modules()
    ]
    ids = torch.zeros(1, 2, dtype=torch.long, device=policy.device)
    with torch.no_grad():
        policy(input_ids=ids)
    for hook in hooks:
        hook.remove()
    for part in parts - read:
        part.requires_grad_(False)


def _same(loaded: "Tensor", fresh: "Tensor") -> bool:
    """Whether two buffers are one but for rounding; what cannot be compared is left alone."""
    import torch

    if fresh.is_meta:
        return True
    if loaded.shape != fresh.shape:
        return False
    if not loaded.is_floating_point():
        return torch.equal(loaded.cpu(), fresh)
    rounding = max(torch.finfo(each.dtype).eps for each in (loaded, fresh))
    return torch.allclose(
        loaded.cpu().double(), fresh.double(), rtol=2 * rounding, atol=0.0, equal_nan=False
    )


def longest_input(config: "PretrainedConfig") -> float:
    """Positions that the model was made for, in tokens; infinite where it names no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf


def _check_flash_attention() -> None:
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        raise UserError(
            "training.attention=flash_attention_2 needs a GPU and the package flash-attn wherever "
            "the reference is computed and the policy trained: pip install flash-attn, or set "
            "training.attention=sdpa"
        )


def _check_liger() -> None:
    import torch
    from transformers.utils import is_liger_kernel_available

    if not (torch.cuda.is_available() and is_liger_kernel_available()):
        raise UserError(
            "training.use_liger_kernel needs a GPU and the package liger-kernel wherever the "
            "reference is computed and the policy trained: pip install 'maskdpo-ray[liger]', or "
            "remove the setting"
        )


def _use_liger(policy: "PreTrainedModel") -> None:
    """Put Liger's kernels in place of the norms, the rotary embedding and the MLP's activation.

    Its head is for full answers; ours reads the kept tokens alone.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = policy.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:  # which it would pass over with a log line
        raise UserError(
            f"training.use_liger_kernel: liger-kernel has none for models of type {kind!r}: remove "
            "the setting"
        )
    head = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    _apply_liger_kernel_to_instance(model=policy, **head)


def _in_4_bits(dtype: str) -> dict[str, Any]:
    """How Transformers quantizes a model while it loads it: as QLoRA does (arXiv:2305.14314)."""
    import torch

    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError(
            "training.load_in_4bit needs bitsandbytes wherever the reference is computed and the "
            "policy trained: pip install 'maskdpo-ray[qlora]'"
        ) from None
    from transformers import BitsAndBytesConfig

    here = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        ),
        "device_map": {"": here},
    }


def _compute_in_one_way(policy: "PreTrainedModel") -> None:
    """Where nothing is learnt, bitsandbytes would pack the weights anew on some CPUs and compute in
    another way: the reference would not be the policy."""
    for module in policy.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _required(path: str | None) -> str:
    if path is None:
        raise UserError("model.path is missing: a local folder or a hub id")
    return path
