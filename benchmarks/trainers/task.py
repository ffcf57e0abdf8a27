"""What the trainers of ``benchmarks/training.py`` share: the task they are given, the meter."""

import ctypes
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def read_task() -> dict[str, Any]:
    """The task of this process: the JSON file that is its only argument."""
    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))


class Meter:
    """Time of every optimizer step, and memory from the first step on.

    Memory is the resident set of the process on a CPU, and what PyTorch has allocated on a GPU.
    Make one when everything is imported and nothing is loaded.

    Args:
        model: folder of the policy. The size of its weights is added to what is in memory now:
            safetensors maps the file, so that loading alone makes no page resident.
    """

    def __init__(self, model: str) -> None:
        from transformers.models.llama import modeling_llama  # noqa: F401  (imports are none's)

        self._began = time.perf_counter()
        _forget_the_past()
        weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
        self._figures: dict[str, Any] = {"loaded_bytes": _allocated() + weights}
        self._ends: list[tuple[float, float]] = []

    def begin(self) -> None:
        """All preparation is done, the first step follows."""
        _forget_the_past()
        self._figures["preparation_seconds"] = time.perf_counter() - self._began
        self._ends.append(_clocks())

    def step(self) -> None:
        """An optimizer step is done."""
        if _cuda():
            _cuda().synchronize()
        self._ends.append(_clocks())
        self._figures["peak_bytes"] = _peak()

    def report(self, **more: Any) -> None:
        """Print the figures as the last line of the process."""
        steps = list(zip(self._ends, self._ends[1:], strict=False))
        for place, name in enumerate(("seconds", "cpu_seconds")):
            self._figures[name] = [after[place] - before[place] for before, after in steps]
        print(json.dumps({**self._figures, **more}), flush=True)


def _forget_the_past() -> None:
    """Give back what is not in use, so that it is not taken for training's."""
    gc.collect()
    if _cuda():
        _cuda().reset_peak_memory_stats()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _cuda() -> Any:
    import torch

    return torch.cuda if torch.cuda.is_available() else None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _allocated() -> int:
    return _cuda().memory_allocated() if _cuda() else _status("VmRSS")


def _peak() -> int:
    return _cuda().max_memory_allocated() if _cuda() else _status("VmHWM")


def quiet() -> None:
    """Only the figures: libraries may keep their progress bars to themselves."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
