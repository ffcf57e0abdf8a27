from maskdpo_ray.config import TrainingConfig
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
