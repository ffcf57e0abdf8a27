"""What is compared of two training runs."""

from pathlib import Path
from typing import Any

import pytest
import torch

OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}  # of training.deepspeed


def losses(lines: list[dict]) -> list[float]:
    return [line["loss"] for line in lines]


def weights_of(job: Any) -> dict[str, torch.Tensor]:
    """The weights that a run wrote."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(f"{job.output}/model").state_dict()


def state_of(checkpoint: Path, kind: str) -> dict[str, torch.Tensor]:
    """The ``weight``, ``exp_avg`` or ``exp_avg_sq`` of every parameter of a checkpoint."""
    from safetensors.torch import load_file

    states = [load_file(path) for path in sorted(checkpoint.glob("state-*.safetensors"))]
    return {k: t for state in states for k, t in state.items() if k.endswith(f"/{kind}")}


def assert_alike(
    got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], share: float
) -> None:
    """Equal but for this share of each tensor's largest."""
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        largest = float(tensor.abs().max())
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=share * largest)


def assert_same_run(
    lines: list[dict], weights: dict[str, torch.Tensor], expected: tuple[list[dict], dict]
) -> None:
    """Losses relative to 1e-4, weights to 1e-4 of each tensor's largest."""
    assert losses(lines) == pytest.approx(losses(expected[0]), rel=1e-4)
    assert_alike(weights, expected[1], 1e-4)
