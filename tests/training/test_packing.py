"""Packed rows against padded ones: the forward pass, what can be packed, and whole runs."""

import math
import shutil

import numpy as np
import pytest
import torch
from runs import assert_same_run, weights_of

from maskdpo_ray.errors import UserError
from maskdpo_ray.training.batches import collate
from maskdpo_ray.training.logprobs import LogProbModel
from maskdpo_ray.training.packing import PACKED_SDPA
from maskdpo_ray.training.reference import _unmasked

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


def policies() -> dict:
    """Makers of models: rotary and learned positions, a window shorter than the sequences."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
    )

    gpt2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    quiet = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    return {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=7)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**gpt2, **quiet)),
    }


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_padded_in_float64(name, checkpointing, pairs):
    results = []
    for packing in (False, True):
        torch.manual_seed(0)
        policy = policies()[name]().double()
        if checkpointing:
            policy.gradient_checkpointing_enable({"use_reentrant": False})
        model = LogProbModel(policy, 7, packing).train()
        batch = collate([_unmasked(pair) for pair in pairs[:5]], model.packed)
        log_probs = model(**batch.inputs())
        (log_probs * torch.linspace(-1, 1, len(log_probs))).sum().backward()
        results.append((log_probs.detach(), dict(policy.named_parameters())))
    (padded, of_padded), (packed, of_packed) = results
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-10)
    for key, parameter in of_packed.items():
        torch.testing.assert_close(parameter.grad, of_padded[key].grad, rtol=0, atol=1e-9)


def test_what_cannot_be_packed_is_padded_or_refused():
    from transformers import Lfm2Config, Lfm2ForCausalLM

    llama = policies()["llama"]()
    assert LogProbModel(llama, 4, "auto").packed
    assert llama.config._attn_implementation == PACKED_SDPA

    def eager():
        policy = policies()["llama"]()
        policy.set_attn_implementation("eager")
        return policy

    assert not LogProbModel(eager(), 4, "auto").packed
    with pytest.raises(UserError, match="'eager' cannot tell the sequences"):
        LogProbModel(eager(), 4, packing=True)

    def mixed():
        layers = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
        return Lfm2ForCausalLM(Lfm2Config(**SMALL, **layers))

    assert not LogProbModel(mixed(), 4, "auto").packed
    with pytest.raises(UserError, match="Lfm2ForCausalLM has layers of kind conv"):
        LogProbModel(mixed(), 4, packing=True)


# Thirty steps of whole runs.


@pytest.fixture(scope="module")
def thirty(settings):
    """Settings of thirty steps whose learning rate keeps the last losses off zero."""
    return {"epochs": 6, "learning_rate": 2e-3}


@pytest.fixture(scope="module")
def padded_run(one_rank, model_config, settings, thirty, pairs, references, tmp_path_factory):
    from maskdpo_ray.storage import Folder
    from maskdpo_ray.training.worker import TrainingJob

    output = Folder(tmp_path_factory.mktemp("padded"))
    changed = settings.model_copy(update={**thirty, "packing": False})
    job = TrainingJob(model_config, changed, 0, lambda: pairs, lambda: references, output)
    return one_rank.train(job), weights_of(job)


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        ("one_rank", {"packing": True}),
        ("one_rank", {"packing": True, "micro_batch_tokens": 1}),
        ("one_rank", {"packing": True, "micro_batch_tokens": 10**6, "zero_stage": 2}),
        ("one_rank", {"packing": False, "micro_batch_tokens": 1}),
        ("two_ranks", {"packing": True, "zero_stage": 3}),
        ("two_ranks", {"packing": False, "zero_stage": 1}),
        ("two_ranks", {"packing": True, "micro_batch_tokens": 10**6}),
    ],
)
def test_thirty_steps_are_the_same_however_they_are_cut(
    ranks, changes, request, make_job, thirty, padded_run
):
    job = make_job(**{**thirty, **changes})
    lines = request.getfixturevalue(ranks).train(job)
    assert len(lines) == 30 and lines[-1]["loss"] < 0.6
    assert_same_run(lines, weights_of(job), padded_run)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("ranks", ["one_rank", "two_ranks"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_first_loss_is_ln_2(stage, ranks, packing, request, make_job):
    job = make_job(zero_stage=stage, packing=packing, max_steps=1)
    (line,) = request.getfixturevalue(ranks).train(job)
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("ranks", ["one_rank", "two_ranks"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_first_loss_is_ln_2_in_bfloat16(stage, ranks, packing, request, make_job, low):
    job = make_job(fields=low, zero_stage=stage, packing=packing, max_steps=1)
    (line,) = request.getfixturevalue(ranks).train(job)
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-3)


def test_packing_is_not_part_of_what_is_learnt(make_job, one_rank, tmp_path):
    """A run may go on packed that began padded."""
    whole = one_rank.train(make_job("whole", packing=False))
    one_rank.train(make_job("whole", packing=False, checkpoint_every=4), keep=tmp_path / "kept")
    for step in ("8", "10"):
        shutil.rmtree(tmp_path / "kept" / step)
    resumed = one_rank.train(make_job("on", packing=True), resume=tmp_path / "kept")
    losses = [[line["loss"] for line in run] for run in (resumed, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
