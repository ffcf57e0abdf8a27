import pytest

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.engine import deepspeed_config


def test_settings_reach_deepspeed():
    extra = {"zero_optimization": {"overlap_comm": False}, "wall_clock_breakdown": True}
    settings = TrainingConfig(zero_stage=3, max_grad_norm=0.5, deepspeed=extra)
    config = deepspeed_config(settings, "bfloat16", parameters=1000)
    assert config["zero_optimization"] == {
        "stage": 3, "reduce_bucket_size": 1000, "overlap_comm": False
    }  # fmt: skip
    assert config["gradient_clipping"] == 0.5
    assert config["bf16"] == {"enabled": True} and config["wall_clock_breakdown"] is True
    assert "bf16" not in deepspeed_config(settings, "float32", parameters=1000)


def test_what_would_be_ignored_or_harmful_is_refused():
    with pytest.raises(UserError, match="through training.zero_stage"):
        settings = TrainingConfig(deepspeed={"zero_optimization": {"stage": 1}})
        deepspeed_config(settings, "float32", parameters=1)
    with pytest.raises(UserError, match="set training.zero_stage=1"):
        deepspeed_config(TrainingConfig(zero_stage=0), "bfloat16", parameters=1)
