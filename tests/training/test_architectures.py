"""A dozen families of `benchmarks/architectures.py`, which runs all of them: tiny random models,
loaded, compared with their own logits and gradients, exported and loaded again."""

import copy
import json

import pytest
import torch

from maskdpo_ray.config import LoraConfig, ModelConfig, TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.export import _buffers, write_model
from maskdpo_ray.training.worker import load_to_train


@pytest.mark.parametrize(
    "family",
    [
        "bloom",  # positions by a bias of attention
        "cohere2",  # scales its logits
        "deepseek_v3",  # latent attention, routers with a state of their own
        "gemma2",  # caps attention and logits
        "gemma3",  # a vision tower that text does not pass through
        "gpt_oss",  # sinks
        "gptj",
        "granitemoe",
        "llama4",  # its checkpoint is of a larger model
        "mamba2",  # a state instead of attention
        "mpt",
        "nemotron",
    ],
)
def test_a_family_is_exact_from_loading_to_export(family, sweep, tmp_path):
    base = tmp_path / "base"
    sweep.build(family, base)
    model = ModelConfig(path=str(base), dtype="float32")
    data = sweep.pairs()[:3]
    found = sweep.compare_log_probs(base, model, TrainingConfig(), data)
    assert found["log_probs_apart"] < 1e-4 and found["gradients_apart"] < 1e-4

    policy = load_to_train(model, TrainingConfig(), seed=0).policy
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.02)
    state = {name: p.detach().clone() for name, p in policy.named_parameters()}
    state |= {name: buffer.clone() for name, buffer in _buffers(policy)}
    write_model(policy, copy.copy(state), model, None, Folder(tmp_path / "out"), "card")
    sweep.compare_export(base, tmp_path / "out" / "model", state, data)
    frozen = [name for name, p in policy.named_parameters() if not p.requires_grad]
    assert bool(frozen) is (family == "gemma3")
    assert json.loads((tmp_path / "out/model/generation_config.json").read_text()) == (
        sweep.GENERATION
    )


def test_a_family_that_fails_in_backward_is_refused_at_load(sweep, tmp_path):
    """Reformer computes its layers again in backward, in training mode alone."""
    sweep.build("reformer", tmp_path / "base")
    model = ModelConfig(path=str(tmp_path / "base"), dtype="float32")
    with pytest.raises(UserError, match="cannot be trained here: its backward fails") as told:
        load_to_train(model, TrainingConfig(), seed=0)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("family", ["ctrl", "falcon"])
def test_adapters_find_their_layers(family, sweep, tmp_path):
    """CTRL scales its embeddings in place; Falcon's linear layers are of a kind of its own."""
    sweep.build(family, tmp_path / "base")
    model = ModelConfig(path=str(tmp_path / "base"), dtype="float32")
    trained = load_to_train(model, TrainingConfig(lora=LoraConfig(rank=4)), seed=0)
    learnt = [name for name, p in trained.policy.named_parameters() if p.requires_grad]
    assert len(learnt) >= 2 * 4 * 4 and all("lora" in name for name in learnt)


def test_a_comparison_that_is_not_a_number_fails(sweep):
    with pytest.raises(sweep.Different):
        sweep.check("this", float("nan"))
