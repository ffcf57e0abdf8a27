"""Adapters over a base in 4 bits (QLoRA): the same run as over whole weights, on rounded ones."""

import asyncio
import math
import sys
from pathlib import Path

import pytest
import torch
from runs import losses

from maskdpo_ray.config import LoraConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.model import load_policy
from maskdpo_ray.training.reference import ReferenceProcessor

pytest.importorskip("bitsandbytes", reason="extra `qlora` is not installed")

QLORA = {"load_in_4bit": True, "lora": LoraConfig(rank=4, alpha=8), "zero_stage": 2}


@pytest.fixture(scope="module")
def in_4_bits(settings):
    return settings.model_copy(update=QLORA)


@pytest.fixture(scope="module")
def rounded(model_config, in_4_bits, pairs) -> dict:
    """Fields of a job: the references of the base in 4 bits."""
    rows = asyncio.run(ReferenceProcessor(model_config, in_4_bits)(pairs))
    return {"references": lambda: rows}


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_adapters_in_bfloat16_over_a_base_in_4_bits(
    stage, two_ranks, make_job, model_config, in_4_bits, pairs
):
    low = model_config.model_copy(update={"dtype": "bfloat16"})
    rows = asyncio.run(ReferenceProcessor(low, in_4_bits)(pairs))
    fields = {"model": low, "references": lambda: rows}
    lines = two_ranks.train(make_job(fields=fields, **{**QLORA, "zero_stage": stage}))
    assert losses(lines)[0] == pytest.approx(math.log(2), abs=1e-3)
    assert min(losses(lines)) < 0.5


def test_the_layers_alone_are_in_4_bits(model_config, in_4_bits):
    policy = load_policy(model_config, in_4_bits)
    kinds = {type(module).__name__ for name, module in policy.named_modules() if "proj" in name}
    assert kinds == {"Linear4bit"}
    layer = policy.model.layers[0].self_attn.q_proj.weight
    assert layer.dtype == torch.uint8 and layer.numel() == 32 * 32 / 2
    assert policy.get_output_embeddings().weight.dtype == torch.float32


def test_the_reference_is_of_the_rounded_weights(rounded, references):
    """Near that of whole weights, and not the same."""
    pairs_of = zip(rounded["references"](), references, strict=True)
    apart = [abs(a - b) for got, whole in pairs_of
             for a, b in zip(got["chosen"], whole["chosen"], strict=True)]  # fmt: skip
    assert 0.01 < sum(apart) / len(apart) < 1


def test_a_run_starts_at_ln_2_and_is_the_same_on_two_ranks_and_resumed(
    one_rank, two_ranks, make_job, rounded, kept
):
    whole = one_rank.train(make_job("one", rounded, **QLORA, checkpoint_every=4), keep=kept)
    assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-5)
    assert min(losses(whole)) < 0.5
    for later in ("8", "10"):
        (kept / later).rename(kept.with_name(f"later-{later}"))
    resumed = two_ranks.train(make_job("two", rounded, **QLORA), resume=kept)
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-4)
    for stage in (0, 1):
        job = make_job(f"zero-{stage}", rounded, **{**QLORA, "zero_stage": stage})
        assert losses(two_ranks.train(job)) == pytest.approx(losses(whole), rel=1e-4)


def test_a_merged_export_is_the_whole_base_with_the_adapters(
    one_rank, make_job, rounded, tiny_llama
):
    from transformers import AutoModelForCausalLM

    job = make_job(fields=rounded, **QLORA)
    one_rank.train(job)
    base, merged = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (tiny_llama, Path(job.output.uri, "model"))
    )
    assert {name: t.shape for name, t in merged.items()} == {n: t.shape for n, t in base.items()}
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, base[name])}
    assert changed == {name for name in base if "_proj" in name}
    update = merged["model.layers.0.self_attn.q_proj.weight"].double()
    update -= base["model.layers.0.self_attn.q_proj.weight"].double()
    singular = torch.linalg.svdvals(update)
    assert singular[3] > 1e-4 and singular[4] < 1e-5, "of the adapters' rank"


def test_without_bitsandbytes_the_remedy_is_named(model_config, in_4_bits, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'maskdpo-ray\[qlora\]'"):
        load_policy(model_config, in_4_bits)
