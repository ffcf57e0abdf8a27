"""What is refused when a policy is loaded."""

import pytest
import torch

from maskdpo_ray.config import ModelConfig, TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.model import load_policy
from maskdpo_ray.training.reference import ReferenceProcessor
from maskdpo_ray.training.worker import _load


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


def test_a_model_that_scales_its_logits_is_refused_before_anything_is_computed(
    tmp_path, settings, make_job
):
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = GraniteConfig(vocab_size=64, **sizes, **heads, logits_scaling=8.0)
    GraniteForCausalLM(config).save_pretrained(tmp_path / "scaled")
    model = ModelConfig(path=str(tmp_path / "scaled"), dtype="float32")
    words = rf"GraniteForCausalLM \({tmp_path}/scaled\) cannot be trained here"
    with pytest.raises(UserError, match=words):
        ReferenceProcessor(model, settings)
    with pytest.raises(UserError, match=words):
        _load(make_job(fields={"model": model}))
