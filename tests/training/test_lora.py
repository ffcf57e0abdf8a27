"""Adapters in the worker loop: what is trained, saved, resumed and exported."""

import asyncio
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import losses

from maskdpo_ray.config import LoraConfig, ModelConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.lora import add_adapters
from maskdpo_ray.training.model import load_policy

pytest.importorskip("peft", reason="extra `lora` is not installed")

LORA = LoraConfig(rank=4, alpha=8)


@pytest.fixture(scope="module")
def undisturbed(one_rank, model_config, settings, pairs, references, tmp_path_factory):
    """Ten steps on one rank without ZeRO, and the adapters that came out."""
    from maskdpo_ray.storage import Folder
    from maskdpo_ray.training.worker import TrainingJob

    settings = settings.model_copy(update={"lora": LORA.model_copy(update={"export": "adapter"})})
    output = Folder(tmp_path_factory.mktemp("undisturbed"))
    job = TrainingJob(model_config, settings, 0, lambda: pairs, lambda: references, output)
    return one_rank.train(job), Path(output.uri, "model")


@pytest.fixture
def adapted(undisturbed, tiny_llama):
    """The base with the exported adapters beside it, as peft reads them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    return PeftModel.from_pretrained(base, undisturbed[1]).eval()


def test_the_loss_starts_at_ln_2_and_moves(undisturbed):
    lines, _ = undisturbed
    assert losses(lines)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert min(losses(lines)) < 0.5


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_zero_stages_on_two_ranks_follow_the_same_curve(stage, two_ranks, make_job, undisturbed):
    lines = two_ranks.train(make_job(zero_stage=stage, lora=LORA))
    assert losses(lines) == pytest.approx(losses(undisturbed[0]), rel=1e-5)
    norms = [[line["grad_norm"] for line in run] for run in (lines, undisturbed[0])]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_resumed_equals_undisturbed_from_adapters_alone(stage, two_ranks, make_job, tmp_path):
    from safetensors import safe_open

    kept = tmp_path / "kept"
    options = {"zero_stage": stage, "lora": LORA, "checkpoint_every": 4}
    whole = two_ranks.train(make_job("whole", **options), keep=kept)
    names = []
    for file in (kept / "4").glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            names += tensors.keys()
    assert len(names) == 3 * 2 * 14, "weight and two moments of two matrices of 14 layers"
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    for step in ("8", "10"):
        shutil.rmtree(kept / step)
    resumed = two_ranks.train(make_job("resumed", **options), resume=kept)
    assert losses(resumed) == losses(whole)


def test_a_checkpoint_moves_to_other_ranks_and_stages(one_rank, two_ranks, make_job, tmp_path):
    kept = tmp_path / "kept"
    whole = two_ranks.train(make_job("a", zero_stage=3, lora=LORA, checkpoint_every=4), keep=kept)
    for step in ("8", "10"):
        shutil.rmtree(kept / step)
    resumed = one_rank.train(make_job("b", zero_stage=1, lora=LORA), resume=kept)
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-5)


def test_a_merged_export_is_a_whole_model(two_ranks, make_job, tiny_llama, adapted):
    """Under ZeRO 3: the names, shapes and settings of the base, the answers of the adapters."""
    from transformers import AutoModelForCausalLM

    job = make_job(zero_stage=3, lora=LORA)
    two_ranks.train(job)
    folder = Path(job.output.uri, "model")
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    shapes = [{n: (t.shape, t.dtype) for n, t in m.state_dict().items()} for m in (merged, base)]
    assert shapes[0] == shapes[1]
    assert (folder / "config.json").read_text() == Path(tiny_llama, "config.json").read_text()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        logits = [model(ids).logits for model in (merged, adapted, base)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)
    assert (logits[0] - logits[2]).abs().max() > 0.1
    frozen = "model.embed_tokens.weight"
    assert torch.equal(merged.state_dict()[frozen], base.state_dict()[frozen])


def test_an_adapter_export_names_its_base(undisturbed, tiny_llama):
    folder = undisturbed[1]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_llama)
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)
    names = {file.name for file in folder.iterdir()}
    assert {"adapter_model.safetensors", "README.md", "tokenizer.json"} <= names
    assert not names & {"config.json", "model.safetensors"}


@pytest.mark.parametrize("stage", [0, 3])
def test_bfloat16(stage, two_ranks, make_job, model_config, settings, pairs, undisturbed):
    from safetensors.torch import load_file

    from maskdpo_ray.training.reference import ReferenceProcessor

    low = model_config.model_copy(update={"dtype": "bfloat16"})
    rows = asyncio.run(ReferenceProcessor(low, settings)(pairs))
    job = make_job(fields={"model": low, "references": lambda: rows}, zero_stage=stage, lora=LORA)
    lines = two_ranks.train(job)
    assert losses(lines)[0] == pytest.approx(math.log(2), abs=1e-3)
    assert losses(lines) == pytest.approx(losses(undisturbed[0]), abs=0.05)
    exported = load_file(Path(job.output.uri, "model", "model.safetensors"))
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}


def test_vllm_answers_with_a_merged_export(one_rank, make_job, settings, pairs, tmp_path):
    """An engine in a process of its own gives the greedy tokens of the exported weights."""
    import models
    from transformers import AutoModelForCausalLM

    from maskdpo_ray.training.reference import ReferenceProcessor

    model = ModelConfig(path=models.build_tiny_llama(tmp_path / "base"), dtype="float32")
    rows = asyncio.run(ReferenceProcessor(model, settings)(pairs))
    fields = {"model": model, "references": lambda: rows}
    job = make_job(fields=fields, lora=LORA, max_steps=4)
    one_rank.train(job)
    folder, prompt = f"{job.output}/model", pairs[0]["prompt_ids"]
    script = (
        "import asyncio, json, sys\n"
        "from vllm import SamplingParams\n"
        "from maskdpo_ray.engine.engine import Engine\n"
        "engine = Engine(sys.argv[1], dtype='float32', kv_cache_memory_bytes=2**26)\n"
        "params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)\n"
        "(output,) = asyncio.run(engine.generate(json.loads(sys.argv[2]), params))\n"
        "print('TOKENS', json.dumps(list(output.token_ids)))\n"
        "engine.close()\n"
    )
    command = [sys.executable, "-c", script, folder, json.dumps(prompt)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("TOKENS")]
    policy = AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.0)
    wanted = policy.generate(
        torch.tensor([prompt]), do_sample=False, min_new_tokens=8, max_new_tokens=8
    )
    assert json.loads(line.removeprefix("TOKENS")) == wanted[0, len(prompt) :].tolist()


def test_adapters_get_the_gradients_of_full_logits(model_config, pairs):
    from maskdpo_ray.training.batches import collate
    from maskdpo_ray.training.logprobs import LogProbModel
    from maskdpo_ray.training.reference import _unmasked

    policy = load_policy(model_config).double()
    add_adapters(policy, LORA, seed=0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    pair = _unmasked(pairs[0])
    ids = torch.tensor([*pair.prompt_ids, *pair.chosen.token_ids])
    logits = policy(ids[None]).logits[0, len(pair.prompt_ids) - 1 : -1]
    picked = logits.log_softmax(-1).gather(1, torch.tensor(pair.chosen.token_ids)[:, None])
    wanted = torch.autograd.grad(picked.sum(), list(trained.values()))
    batch = collate([pair])
    log_probs = LogProbModel(policy, 4)(**batch.inputs())
    got = torch.autograd.grad(log_probs[batch.owner == 0].sum(), list(trained.values()))
    for ours, theirs in zip(got, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


def test_all_workers_begin_with_the_same_adapters(model_config):
    first, second = load_policy(model_config), load_policy(model_config)
    add_adapters(first, LORA, seed=3)
    torch.rand(5)  # whatever else drew random numbers
    add_adapters(second, LORA, seed=3)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["q_porj", "lm_head", "embed_tokens"])
def test_what_is_no_linear_layer_is_refused(model_config, name):
    settings = LoraConfig(target_modules=["v_proj", name])
    with pytest.raises(UserError, match=f"'{name}' is no linear layer .* q_proj"):
        add_adapters(load_policy(model_config), settings, seed=0)
