"""An export is its base with other numbers, and that it will be is known before the first step."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.base_files import BaseFiles
from maskdpo_ray.training.export import _buffers, rehearse_export, write_model
from maskdpo_ray.training.model import load_policy

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "n_routed_experts": 4}


@pytest.fixture
def make_base(tiny_llama, tmp_path):
    """A base of a family, with the tokenizer that the tests share."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

    def make(family: str, **settings) -> ModelConfig:
        folder = tmp_path / family
        config = CONFIG_MAPPING[family](**SMALL, **settings)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
        return ModelConfig(path=str(folder), dtype="float32")

    return make


def trained(model: ModelConfig):
    """The policy with other numbers, and these, as ``gather_weights`` gives them."""
    policy = load_policy(model)
    weights = {name: 1.5 * p.detach().clone() for name, p in policy.named_parameters()}
    return policy, weights | {name: b.clone() for name, b in _buffers(policy)}


def export(model: ModelConfig, tmp_path):
    policy, weights = trained(model)
    write_model(policy, weights, model, None, Folder(tmp_path / "out"), "card")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    return policy, tmp_path / "out" / "model"


def logits(policy) -> torch.Tensor:
    with torch.no_grad():
        return policy(input_ids=torch.arange(1, 9)[None], use_cache=False).logits


def shift_choice_of_experts(folder) -> None:
    """Give the routers' corrections, which are buffers, something to correct."""
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "correction_bias" in name:
            weights[name] = torch.tensor([3.0, -2.0, 1.0, -1.0])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_buffers_that_are_a_models_state_are_exported(make_base, tmp_path):
    """GLM-4 MoE and DeepSeek-V3 choose experts by one; without it the export is another model."""
    from transformers import AutoModelForCausalLM

    model = make_base("glm4_moe", **EXPERTS, n_shared_experts=1, first_k_dense_replace=1)
    shift_choice_of_experts(tmp_path / "glm4_moe")
    policy, folder = export(model, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    assert torch.equal(logits(again), logits(policy))
    assert BaseFiles(folder).shapes() == BaseFiles(tmp_path / "glm4_moe").shapes()


def test_tensors_that_no_text_passes_through_stay_as_they_were(make_base, tmp_path):
    """Such as heads that draft tokens, which Transformers leaves in the file."""
    model = make_base("llama", tie_word_embeddings=False)
    file = tmp_path / "llama" / "model.safetensors"
    draft = torch.randn(3, 5).bfloat16()
    save_file(load_file(file) | {"model.mtp.weight": draft}, file, metadata={"format": "pt"})
    _, folder = export(model, tmp_path)
    found, before = load_file(folder / "model.safetensors"), load_file(file)
    assert torch.equal(found.pop("model.mtp.weight"), draft)
    assert found.keys() | {"model.mtp.weight"} == before.keys()
    assert all(torch.equal(found[name], 1.5 * before[name]) for name in found)


@pytest.mark.parametrize("twice", [False, True])
def test_tied_weights_have_the_names_they_have_in_the_base(twice, make_base, tmp_path):
    model = make_base("llama", tie_word_embeddings=True)
    file = tmp_path / "llama" / "model.safetensors"
    weights = load_file(file)
    if twice:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, file, metadata={"format": "pt"})
    _, folder = export(model, tmp_path)
    found = load_file(folder / "model.safetensors")
    assert found.keys() == weights.keys()
    assert ("lm_head.weight" in found) is twice
    for name, tensor in found.items():
        assert torch.equal(tensor, 1.5 * weights[name])


def test_what_stands_beside_the_weights_is_copied_to_the_letter(make_base, tmp_path):
    """Transformers refuses to save a temperature without do_sample, which published files have."""
    base = make_base("llama")
    files = {
        "generation_config.json": json.dumps({"temperature": 0.6, "top_p": 0.9}),
        "preprocessor_config.json": json.dumps({"image_processor_type": "X"}),
        "LICENSE": "text",
    }
    for name, text in files.items():
        (tmp_path / "llama" / name).write_text(text)
    (tmp_path / "llama" / "README.md").write_text("of the base")
    (tmp_path / "llama" / "model.gguf").write_text("other weights")
    _, folder = export(base, tmp_path)
    assert {name: (folder / name).read_text() for name in files} == files
    assert (folder / "README.md").read_text() == "card"
    assert not (folder / "model.gguf").exists()


def test_large_exports_come_in_parts(make_base, tmp_path, monkeypatch):
    import huggingface_hub
    from transformers import AutoModelForCausalLM

    split = huggingface_hub.split_torch_state_dict_into_shards
    monkeypatch.setattr(
        huggingface_hub,
        "split_torch_state_dict_into_shards",
        lambda tensors: split(tensors, max_shard_size=20_000),
    )
    policy, folder = export(make_base("mixtral", num_local_experts=4), tmp_path)
    assert (folder / "model.safetensors.index.json").is_file()
    again = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    assert torch.equal(logits(again), logits(policy))
    shapes = BaseFiles(folder).shapes()
    assert shapes == BaseFiles(tmp_path / "mixtral").shapes()
    assert len(shapes) > len(policy.state_dict()), "experts stand one by one in the files"


def test_bases_in_pytorchs_own_files_are_known_too(make_base, tmp_path):
    model = make_base("llama")
    file = tmp_path / "llama" / "model.safetensors"
    shapes = BaseFiles(tmp_path / "llama").shapes()
    torch.save(load_file(file), tmp_path / "llama" / "pytorch_model.bin")
    file.unlink()
    assert BaseFiles(tmp_path / "llama").shapes() == shapes
    _, folder = export(model, tmp_path)
    assert BaseFiles(folder).shapes() == shapes
    assert not (folder / "pytorch_model.bin").exists()


def test_weights_without_a_place_in_the_base_are_found_before_the_first_step(make_base, tmp_path):
    model = make_base("llama", tie_word_embeddings=False)
    policy = load_policy(model)
    rehearse_export(policy, model)
    policy.model.layers[0].extra = torch.nn.Linear(3, 5)
    words = "could be trained but not saved as its base is: 2 .*extra.bias .* is not there"
    with pytest.raises(UserError, match=words):
        rehearse_export(policy, model)
    policy = load_policy(model)
    policy.model.norm.weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(UserError, match=r"model.norm.weight of shape \[3\] is \[32\] there"):
        rehearse_export(policy, model)
