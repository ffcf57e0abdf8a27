"""The GPU of ``training.py --gpu``: which one, how fast at best, how large a model fits on it."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

# Dense bf16, without sparsity, from the makers' data sheets. The first that stands in the name.
PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200 NVL": 835,
    "H200": 989,
    "A100": 312,
    "L40S": 362,
}
# Ours under ZeRO 1 holds weights in bf16, and weights, gradients and two moments in fp32: 18. So
# does TRL: all in fp32, and autocast's copy of the weights. Some to spare.
BYTES_PER_PARAMETER = 22
# Of an 8B-shaped layer, and of embedding and head together.
LAYER, WORDS = 0.218e9, 1.05e9


@dataclass(frozen=True)
class Card:
    name: str
    memory: int  # bytes

    @property
    def peak(self) -> float | None:
        """Floating point operations a second, if this card, and not a slice of it, is known."""
        peaks = (peak for part, peak in PEAK_TFLOPS.items() if part in self.name)
        peak = None if "MIG" in self.name else next(peaks, None)
        return peak and peak * 1e12

    @property
    def layers(self) -> int:
        """As many as fit, a quarter of the card left for activations; 32 are the whole model."""
        parameters = 0.75 * self.memory / BYTES_PER_PARAMETER
        return max(1, min(32, int((parameters - WORDS) / LAYER)))


def find_card() -> Card | None:
    """The first GPU, where there is one."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Card(properties.name, properties.total_memory)


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do it in a process of its own, which takes along what it holds of the GPU."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()
