"""What is refused when a policy is loaded."""

import json

import pytest
import torch

from maskdpo_ray.config import ModelConfig, TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.logprobs import LogProbModel
from maskdpo_ray.training.model import load_policy, set_right_buffers
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


def test_a_model_that_cannot_be_learnt_through_is_refused_before_anything_is_computed(
    tmp_path, settings, make_job
):
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=64, **sizes, num_attention_heads=2, initializer_range=0.2)
    BertLMHeadModel(config).save_pretrained(tmp_path / "both-ways")
    model = ModelConfig(path=str(tmp_path / "both-ways"), dtype="float32")
    words = rf"BertLMHeadModel \({tmp_path}/both-ways\) cannot be trained here: .* come later"
    with pytest.raises(UserError, match=words):
        ReferenceProcessor(model, settings)
    with pytest.raises(UserError, match=words):
        _load(make_job(fields={"model": model}))


def tiny(name, **settings):
    """Configuration of a family with one layer of two heads."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[name](
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        **settings,
    )


def saved(config, folder, change=lambda model: None) -> ModelConfig:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config)
    change(model)
    model.save_pretrained(folder)
    return ModelConfig(path=str(folder), dtype="float32")


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_attention_that_pytorchs_kernel_would_change_is_the_models_own(name, tmp_path, caplog):
    """The kernel drops a soft cap without a word; sinks it cannot compute at all."""
    model = saved(tiny(name), tmp_path / "model")
    policy = load_policy(model)
    assert policy.config._attn_implementation == "eager"
    assert "attention is computed by the model's own code" in caplog.text
    with pytest.raises(UserError, match="training.attention=sdpa: .* set training.attention=auto"):
        load_policy(model, TrainingConfig(attention="sdpa"))


def test_attention_without_a_cap_is_pytorchs(tmp_path):
    model = saved(tiny("gemma2", attn_logit_softcapping=None), tmp_path / "model")
    assert load_policy(model).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("mixtral", {"router_jitter_noise": 0.3, "num_local_experts": 4}),
        # Samples its experts in training; what is called noise is a threshold in evaluation.
        ("phimoe", {"router_jitter_noise": 0.3, "input_jitter_noise": 0.3, "num_local_experts": 4}),
        ("llama", {"attention_dropout": 0.3}),
        ("opt", {"dropout": 0.3, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    ],
)
def test_training_computes_what_the_plain_model_does_in_evaluation(
    name, noise, checkpointing, tmp_path
):
    from transformers import AutoModelForCausalLM

    def stir(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8 if parameter.ndim > 1 else 1)

    model = saved(tiny(name, **noise), tmp_path / "model", stir)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    settings = TrainingConfig(gradient_checkpointing=checkpointing)
    ours = LogProbModel(load_policy(model, settings), None).train()
    ids = torch.arange(1, 33)[None]
    with torch.no_grad():
        wanted = plain(ids, use_cache=False).logits[0].log_softmax(-1)[torch.arange(32), ids[0]]
    for _ in range(3):
        got = ours(ids, torch.ones_like(ids), None, torch.arange(32), ids[0], (32,))
        assert torch.allclose(got, wanted, rtol=0, atol=1e-4)


def test_weights_that_are_not_in_the_files_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    model = saved(tiny("llama", tie_word_embeddings=False), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    del weights["lm_head.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 weights are not in its files.* first lm_head.weight"):
        load_policy(model)


def test_buffers_that_are_not_in_the_files_are_what_the_models_code_computes(tmp_path, caplog):
    policy = load_policy(saved(tiny("llama"), tmp_path / "model"))
    wanted = policy.model.rotary_emb.inv_freq.clone()
    set_right_buffers(policy)
    assert not caplog.text
    policy.model.rotary_emb.inv_freq.fill_(torch.nan)
    set_right_buffers(policy)
    assert torch.equal(policy.model.rotary_emb.inv_freq, wanted)
    assert "1 buffers were loaded wrong" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "of the future"}, "model cannot be loaded: .*of the future"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"are quantized \(fp8\) and cannot"),
        ({"hidden_size": "large"}, "model cannot be loaded: "),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(change, words, tmp_path):
    model = saved(tiny("llama"), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=words) as raised:
        load_policy(model)
    assert "\n" not in str(raised.value)
