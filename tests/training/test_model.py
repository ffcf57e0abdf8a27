"""What is refused before a policy is loaded."""

import pytest
import torch

from maskdpo_ray.config import TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.model import load_policy


@pytest.mark.skipif(torch.cuda.is_available(), reason="it may well be computed on this GPU")
def test_flash_attention_is_refused_where_it_cannot_be_computed(model_config):
    """There is neither the package nor a GPU here; float32 the configuration refuses."""
    low = model_config.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(UserError, match="pip install flash-attn, or set training.attention=sdpa"):
        load_policy(low, TrainingConfig(attention="flash_attention_2"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it may well be computed on this GPU")
def test_liger_is_refused_where_it_cannot_run(model_config):
    with pytest.raises(UserError, match="needs a GPU and the package liger-kernel"):
        load_policy(model_config, TrainingConfig(use_liger_kernel=True))
