"""Checkpoints that do not know the number of workers, nor the ZeRO stage.

A checkpoint holds the whole fp32 weight and both whole Adam moments of every parameter under the
parameter's own name, spread over one file per worker that wrote it. Any number of workers reads
it back: each takes its shards out of the whole tensors. The schedule and the batch plan are pure
functions of the step, so the step number restores them.

Every worker seals its part with the sizes and checksums of its files. A checkpoint counts only
when the parts of all workers are there and match; a damaged one is passed over for the one
before it.
"""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskdpo_ray.training.engine import Engine

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1


@dataclass(frozen=True)
class Position:
    """Where a run stands."""

    step: int  # optimizer steps done
    identity: str  # fingerprint of the pairs and settings that the steps belong to
    history: list[dict[str, Any]]  # the metrics of these steps


def save_part(engine: Engine, folder: Path, rank: int, workers: int, position: Position) -> None:
    """Write this worker's share of the parameters; all workers call this at once.

    Args:
        folder: empty; may be private to the worker or shared by all.
    """
    from safetensors.torch import save_file

    share: dict[str, Tensor] = {}
    loads = [0] * workers
    for name, parameter in engine.named_parameters():
        owner = loads.index(min(loads))
        state = engine.full_state(parameter)
        loads[owner] += state["weight"].numel()
        if owner == rank:
            for key, tensor in state.items():
                share[f"{name}/{key}"] = tensor.detach().cpu().contiguous().clone()
    files = [folder / f"state-{rank:05}.safetensors"]
    save_file(share, files[0])
    if rank == 0:
        files.append(folder / "position.json")
        files[1].write_text(json.dumps({"format": FORMAT, **asdict(position)}), encoding="utf-8")
    seal = {
        "workers": workers,
        "files": {f.name: {"bytes": f.stat().st_size, "crc32": _crc32(f)} for f in files},
    }
    # Last, so that a seal never stands beside a file that is still being written.
    (folder / f"seal-{rank:05}.json").write_text(json.dumps(seal), encoding="utf-8")


def damage(folder: Path, rank: int = 0, workers: int = 1) -> str | None:
    """What is wrong with a checkpoint, or None.

    Sizes are checked for all files; checksums for every ``workers``-th one from ``rank`` on, so
    that the workers who look at one checkpoint together read it once.
    """
    expected, part = 1, 0
    while part < expected:
        seal = folder / f"seal-{part:05}.json"
        if not seal.is_file():
            return f"the part of worker {part} is missing"
        try:
            sealed_by = json.loads(seal.read_text(encoding="utf-8"))
            expected, files = sealed_by["workers"], sealed_by["files"]
        except (ValueError, KeyError):
            return f"{seal.name} cannot be read"
        for name, sealed in files.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != sealed["bytes"]:
                return f"{name} has {file.stat().st_size} of {sealed['bytes']} bytes"
            if part % workers == rank and _crc32(file) != sealed["crc32"]:
                return f"{name} does not match its checksum"
        part += 1
    return None


def read_position(folder: Path) -> Position:
    """Where the run of this checkpoint stood.

    Raises:
        ValueError: the checkpoint was written in another format.
    """
    stored = json.loads((folder / "position.json").read_text(encoding="utf-8"))
    if stored.pop("format") != FORMAT:
        raise ValueError(f"{folder} is a checkpoint of another format")
    return Position(**stored)


def load_weights(model: Any, folder: Path) -> None:
    """Put the weights into a policy that no engine has taken over yet, in the policy's dtype."""
    named = dict(model.named_parameters())
    with _StateReader(folder) as reader:
        for name in reader.names():
            named[name].data.copy_(reader.tensor(name, "weight"))


def load_state(engine: Engine, folder: Path, step: int) -> None:
    """Restore fp32 weights and moments; the model was loaded by :func:`load_weights` before."""
    engine.start_moments(step)
    with _StateReader(folder) as reader:
        for name, parameter in engine.named_parameters():
            keys = ("weight", "exp_avg", "exp_avg_sq")
            state = {key: reader.tensor(name, key).to(engine.device) for key in keys}
            engine.load_full_state(parameter, state)


class _StateReader:
    """The tensors of a checkpoint, read from disk one by one."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("state-*.safetensors"))

    def __enter__(self) -> "_StateReader":
        from safetensors import safe_open

        self._files = [safe_open(path, framework="pt") for path in self._paths]
        self._where = {key: file for file in self._files for key in file.keys()}
        return self

    def __exit__(self, *_: object) -> None:
        self._where = {}
        self._files = []

    def names(self) -> list[str]:
        return sorted({key.rpartition("/")[0] for key in self._where})

    def tensor(self, name: str, key: str) -> "Tensor":
        return self._where[f"{name}/{key}"].get_tensor(f"{name}/{key}")


def _crc32(file: Path) -> int:
    value = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
