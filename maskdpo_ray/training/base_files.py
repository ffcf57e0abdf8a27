"""The files of a base: what its weights are called there, and what stands beside them."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot")
_ABOUT = (".md", ".gitattributes", ".index.json")


class BaseFiles:
    """The weights of a model folder under the names that they are stored under.

    Args:
        folder: with safetensors, or, as older models have, PyTorch's own files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _weight_files(folder)

    def shapes(self) -> Shapes:
        """Shape of every tensor; empty where the weights are of a kind that is not known here."""
        found: Shapes = {}
        for file in self._files:
            with _opened(file) as tensors:
                for name in tensors.keys():
                    found[name] = tensors.shape(name)
        return found

    def tensors(self, names: set[str]) -> "Iterator[tuple[str, Tensor]]":
        for file in self._files:
            with _opened(file) as tensors:
                for name in sorted(names & set(tensors.keys())):
                    yield name, tensors.tensor(name)

    def copy_others(self, folder: Path) -> None:
        """Copy what stands beside the weights, but for what is there already: processors, code of
        the model's own, ``generation_config.json`` to the letter."""
        for file in sorted(self.folder.iterdir()):
            weights = file.name.endswith((*_WEIGHTS, *_ABOUT)) or file.name.startswith(".")
            if file.is_file() and not weights and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)


def _weight_files(folder: Path) -> list[Path]:
    for pattern, index in (
        ("model*.safetensors", "model.safetensors.index.json"),
        ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / index).is_file():
            listed = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
            return [folder / name for name in sorted(set(listed.values()))]
        if found := sorted(folder.glob(pattern)):
            return found
    return []


class _Safetensors:
    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def keys(self) -> list[str]:
        return list(self._opened.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._opened.get_slice(name).get_shape())

    def tensor(self, name: str) -> "Tensor":
        return self._opened.get_tensor(name)


class _Pickled:
    def __init__(self, tensors: "dict[str, Tensor]") -> None:
        self._tensors = tensors

    def keys(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def tensor(self, name: str) -> "Tensor":
        return self._tensors[name]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            yield _Safetensors(opened)
        return
    import torch

    yield _Pickled(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
