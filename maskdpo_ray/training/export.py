"""The trained policy as an ordinary Hugging Face folder, whatever the ZeRO stage.

An export is its base with other numbers: the same names and shapes of tensors, those that no text
passes through included (a vision tower, heads that draft tokens), and the same files beside them.
That it will be is seen before the first step, from names and shapes alone.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from maskdpo_ray.config import LoraConfig, ModelConfig
from maskdpo_ray.engine.chat import load_tokenizer
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.base_files import BaseFiles, Shapes
from maskdpo_ray.training.engine import Engine, gathered
from maskdpo_ray.training.internlm2 import internlm2_weights, is_internlm2
from maskdpo_ray.training.lora import merged, save_adapters
from maskdpo_ray.training.model import local_snapshot

if TYPE_CHECKING:
    from torch import Tensor


def gather_weights(engine: Engine, keep: bool, frozen: bool) -> "dict[str, Tensor]":
    """Whole weights on the CPU where ``keep``; every worker takes part.

    Args:
        frozen: those that were not trained, too, and the buffers that belong to a model's state.
    """
    weights = {}
    for name, parameter in engine.named_parameters(frozen):
        with gathered(parameter) as whole:
            if keep:
                weights[name] = whole.to("cpu", copy=True)
    if keep and frozen:
        weights |= {
            name: buffer.to("cpu", copy=True) for name, buffer in _buffers(engine.module.policy)
        }
    return weights


def _buffers(policy: Any) -> "list[tuple[str, Tensor]]":
    """The buffers that are saved with a model."""
    named = dict(policy.named_buffers())
    return [(name, named[name]) for name in policy.state_dict() if name in named]


def weights_digest(weights: "dict[str, Tensor]") -> str:
    """A name for these very weights, in hex (SHA-256).

    Two trainings with the same settings can end some bits apart: on other hardware, or on another
    number of workers. What is made of one must not be taken for the other's.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def rehearse_export(policy: Any, model: ModelConfig, lora: LoraConfig | None = None) -> None:
    """Find what would stop the export of this policy.

    Args:
        policy: as it is trained, without adapters; its weights are not read and may lie anywhere.

    Raises:
        UserError: its weights have no place among those of the base.
    """
    folder = local_snapshot(model.path, model.revision)
    if lora is not None and lora.export == "adapter" and is_internlm2(folder):
        raise UserError(
            "training.lora.export=adapter: InternLM2 is trained as the Llama that it is, and "
            "adapters for that fit no InternLM2: set training.lora.export=merged"
        )
    base = BaseFiles(folder).shapes()
    stored = _as_stored(policy, _hollow(policy), folder, base)
    problems = [
        f"{name} of shape {list(tensor.shape)} is "
        + (f"{list(base[name])} there" if name in base else "not there")
        for name, tensor in _written(stored, base).items()
        if base.get(name) != tuple(tensor.shape)
    ]
    if base and problems:
        raise UserError(
            f"{type(policy).__name__} ({model.path}) could be trained but not saved as its base "
            f"is: {len(problems)} of its weights have other names or shapes than the base's, first "
            f"{problems[0]}. Save the base anew with this version of Transformers and take that"
        )


def _hollow(policy: Any) -> "dict[str, Tensor]":
    """Tensors without content in the place of a policy's weights and saved buffers."""
    import torch

    parameters = [(name, _whole_shape(p), p) for name, p in policy.named_parameters()]
    buffers = [(name, buffer.shape, buffer) for name, buffer in _buffers(policy)]
    return {
        name: torch.empty(shape, dtype=tensor.dtype, device="meta")
        for name, shape, tensor in (*parameters, *buffers)
    }


def _whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape of a weight that may be sharded (DeepSpeed) or packed in 4 bits (bitsandbytes)."""
    packed = getattr(parameter, "quant_state", None)
    return tuple(packed.shape) if packed else tuple(getattr(parameter, "ds_shape", parameter.shape))


def _as_stored(
    policy: Any, weights: "dict[str, Tensor]", folder: Path, base: Shapes
) -> "dict[str, Tensor]":
    """Weights under the names, and in the pieces, of the base's checkpoint in ``folder``; tied ones
    under each name."""
    from transformers.core_model_loading import revert_weight_conversion

    first: dict[int, str] = {}
    every = dict(weights)
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        owner = first.setdefault(id(parameter), name)
        if owner in weights:
            every[name] = weights[owner]
    stored = revert_weight_conversion(policy, every)
    if is_internlm2(folder):
        return internlm2_weights(stored, policy.config)
    return _in_wrapper(stored, base)


def _in_wrapper(stored: "dict[str, Tensor]", base: Shapes) -> "dict[str, Tensor]":
    """The names of a language model inside the larger one that its base is, where it is one."""
    outside = next((name for name in stored if name not in base), None)
    for name in base if outside else ():
        prefix = name.removesuffix(outside)
        if prefix not in ("", name) and all(prefix + each in base for each in stored):
            return {prefix + each: tensor for each, tensor in stored.items()}
    return stored


def _written(stored: "dict[str, Tensor]", base: Shapes) -> "dict[str, Tensor]":
    """Of tied weights the names that the base has, or one where it has none."""
    names: dict[tuple, list[str]] = {}
    for name, tensor in stored.items():
        place = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape)
        names.setdefault(place, []).append(name)
    kept = [[n for n in tied if n in base] or tied[:1] for tied in names.values()]
    return {name: stored[name] for tied in kept for name in tied}


def write_model(
    policy: Any,
    weights: "dict[str, Tensor]",
    model: ModelConfig,
    lora: LoraConfig | None,
    output: Folder,
    card: str,
) -> None:
    """Write weights, configuration, tokenizer and model card to ``output/model``.

    On a disk the folder appears when it is whole. In an object store, where nothing can be
    renamed, ``config.json`` is the last file to appear (of adapters alone their
    ``adapter_config.json``): a folder without it is no model.

    Args:
        policy: the model that was trained; its own weights may be sharded away.
        weights: what :func:`gather_weights` gave: of all parameters, or of the adapters.
        model: the base.
        lora: settings of the adapters, where they are what was trained.
        output: an older ``model`` in it is replaced.
        card: text of the model card, ``README.md``.
    """
    if not output.is_local:
        with tempfile.TemporaryDirectory() as scratch:
            _write_files(policy, weights, model, lora, Path(scratch), card)
            last = ("config.json", "adapter_config.json")
            files = sorted(Path(scratch).iterdir(), key=lambda file: file.name in last)
            for file in files:
                with pa.memory_map(str(file)) as content:
                    (output / "model").write(file.name, content.read_buffer())
        return
    target = Path(output.uri) / "model"
    aside = target.with_name(".model.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _write_files(policy, weights, model, lora, aside, card)
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)


def _write_files(
    policy: Any,
    weights: "dict[str, Tensor]",
    model: ModelConfig,
    lora: LoraConfig | None,
    folder: Path,
    card: str,
) -> None:
    load_tokenizer(model).save_pretrained(folder)
    if lora is not None and lora.export == "adapter":
        save_adapters(policy, weights, model.path, folder)
    else:
        if lora is not None:
            policy = merged(policy, weights, model)
            weights = policy.state_dict()
        base = BaseFiles(local_snapshot(model.path, model.revision))
        _write_weights(policy, weights, base, folder)
        _write_config(model, base, folder)
        base.copy_others(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_weights(
    policy: Any, weights: "dict[str, Tensor]", base: BaseFiles, folder: Path
) -> None:
    """All tensors of the base: those of the policy as they are now, others as they were."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    shapes = base.shapes()
    written = _written(_as_stored(policy, weights, base.folder, shapes), shapes)
    written |= dict(base.tensors(set(shapes) - set(written)))
    # Stored are pieces of the policy's tensors, and tied ones more than once: of a shard at a time
    # each gets memory of its own, as safetensors wants it.
    whole = {name: tensor.to("meta") for name, tensor in written.items()}
    shards = split_torch_state_dict_into_shards(whole)
    for file, names in shards.filename_to_tensors.items():
        save_file(
            {name: written[name].clone(memory_format=torch.contiguous_format) for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_config(model: ModelConfig, base: BaseFiles, folder: Path) -> None:
    """The source's own file, since training switched dropout off in the loaded one; with the
    dtype of these weights."""
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = model.dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
