"""The trained policy as an ordinary Hugging Face folder, whatever the ZeRO stage."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from maskdpo_ray.config import LoraConfig, ModelConfig
from maskdpo_ray.engine.chat import load_tokenizer
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.engine import Engine, gathered
from maskdpo_ray.training.lora import merged, save_adapters
from maskdpo_ray.training.model import local_snapshot

if TYPE_CHECKING:
    from torch import Tensor


def gather_weights(engine: Engine, keep: bool) -> "dict[str, Tensor]":
    """Whole trained weights on the CPU where ``keep``; every worker takes part."""
    weights = {}
    for name, parameter in engine.named_parameters():
        with gathered(parameter) as whole:
            if keep:
                weights[name] = whole.to("cpu", copy=True)
    return weights


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
    if lora is not None and lora.export == "adapter":
        save_adapters(policy, weights, model.path, folder)
    else:
        if lora is None:
            policy.save_pretrained(folder, state_dict=weights)
        else:
            merged(policy, weights, model).save_pretrained(folder)
        _write_config(model, folder)
    load_tokenizer(model).save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_config(model: ModelConfig, folder: Path) -> None:
    """The source's own file, since training switched dropout off in the loaded one; with the
    dtype of these weights, and the code that the file names where the model brought its own."""
    source = local_snapshot(model.path, model.revision)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = model.dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if "auto_map" in config:
        for code in source.glob("*.py"):
            shutil.copyfile(code, folder / code.name)
