"""What reaches DeepSpeed, and what of its settings is refused."""

import pytest
from pydantic import ValidationError

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.config.section import Kind, kinds_of
from maskdpo_ray.training.engine import deepspeed_config


def test_settings_reach_deepspeed():
    extra = {"zero_optimization": {"overlap_comm": False}, "wall_clock_breakdown": True}
    settings = TrainingConfig(zero_stage=3, max_grad_norm=0.5, deepspeed=extra)
    config = deepspeed_config(settings, "bfloat16", parameters=1000)
    assert config["zero_optimization"] == {
        "stage": 3, "reduce_bucket_size": 1000, "overlap_comm": False
    }  # fmt: skip
    assert config["gradient_clipping"] == 0.5
    assert config["bf16"]["enabled"] is True and config["wall_clock_breakdown"] is True
    assert "bf16" not in deepspeed_config(settings, "float32", parameters=1000)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_zero_0_and_1_add_bfloat16_gradients_up_as_they_arise(stage):
    """They would else hold all of them twice; the other stages do so in any case."""
    config = deepspeed_config(TrainingConfig(zero_stage=stage), "bfloat16", parameters=1000)
    assert config["bf16"]["immediate_grad_update"] is (stage <= 1)


def test_how_deepspeed_works_is_not_part_of_what_is_learnt():
    """A run goes on with an offloaded optimizer in its own folder."""
    assert kinds_of(TrainingConfig)["deepspeed"] is Kind.HOW


def test_gradients_travel_in_float32_unless_told_otherwise():
    config = deepspeed_config(TrainingConfig(), "bfloat16", parameters=1000)
    assert config["communication_data_type"] == "fp32"
    told = TrainingConfig(deepspeed={"communication_data_type": "bf16"})
    config = deepspeed_config(told, "bfloat16", parameters=1000)
    assert config["communication_data_type"] == "bf16"


@pytest.mark.parametrize(
    ("stage", "zero", "words"),
    [
        (2, {"zero_quantized_weights": True}, "differ from its reference"),
        (2, {"zenflow": {}}, "gradients of earlier steps: remove it"),
        (2, {"compute_grad_norm": False}, "max_grad_norm"),
        (0, {"offload_optimizer": {"device": "cpu"}}, "training.zero_stage=1 or more"),
        (2, {"offload_param": {"device": "cpu"}}, "training.zero_stage=3 or more"),
        (3, {"offload_optimizer": {"device": "nvme"}}, "{device: cpu}"),
        (3, {"offload_optimizer": {"device": "cpu", "ratio": 0.5}}, "without ratio"),
        (3, {"offload_optimizer": True}, "{device: cpu}"),
        (3, {"offload_param": {"device": "nvme", "nvme_path": "/mnt"}}, "offload_param is all on"),
        (3, {"offload_param": True}, "{device: cpu}"),
    ],
)
def test_what_changes_the_result_or_would_be_lost_is_refused(stage, zero, words):
    with pytest.raises(ValidationError, match=words):
        TrainingConfig(zero_stage=stage, deepspeed={"zero_optimization": zero})
