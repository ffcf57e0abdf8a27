"""InternLM2, the paper's second policy, on a checkpoint in its own layout and names."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskdpo_ray.config import LoraConfig, ModelConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder
from maskdpo_ray.training.export import rehearse_export, write_model
from maskdpo_ray.training.logprobs import LogProbModel
from maskdpo_ray.training.lora import add_adapters
from maskdpo_ray.training.model import load_policy

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
HEAD = 8


@pytest.fixture
def internlm2(tiny_llama, tmp_path) -> ModelConfig:
    """As published: own code named in auto_map, which is not run; a rope base of its own."""
    from transformers import AutoTokenizer

    folder = tmp_path / "internlm2"
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    config = {
        "architectures": ["InternLM2ForCausalLM"],
        "attn_implementation": "eager",
        "auto_map": {
            "AutoConfig": "configuration_internlm2.InternLM2Config",
            "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
        },
        "bias": False,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "model_type": "internlm2",
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **SIZES,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("configuration_internlm2.py", "modeling_internlm2.py"):
        (folder / name).write_text("raise RuntimeError('not to be run')\n")
    random = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=random)

    weights = {"model.tok_embeddings.weight": matrix(64, 32), "output.weight": matrix(64, 32)}
    weights["model.norm.weight"] = 1 + matrix(32)
    for layer in range(2):
        weights |= {
            f"model.layers.{layer}.{name}.weight": tensor
            for name, tensor in {
                "attention.wqkv": matrix((4 + 2 * 2) * HEAD, 32),
                "attention.wo": matrix(32, 32),
                "feed_forward.w1": matrix(48, 32),
                "feed_forward.w2": matrix(32, 48),
                "feed_forward.w3": matrix(48, 32),
                "attention_norm": 1 + matrix(32),
                "ffn_norm": 1 + matrix(32),
            }.items()
        }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return ModelConfig(path=str(folder), dtype="float32", trust_remote_code=True)


def logits(weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """InternLM2, written down plainly for one sequence."""
    length = len(ids)
    frequencies = 1e6 ** (-torch.arange(0, HEAD, 2) / HEAD)
    angles = torch.outer(torch.arange(length), frequencies).repeat(1, 2)

    def norm(x, name):
        scaled = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return scaled * weights[f"{name}.weight"]

    def turn(x):  # [length, heads, HEAD]
        half = torch.cat([-x[..., HEAD // 2 :], x[..., : HEAD // 2]], -1)
        return x * angles.cos()[:, None] + half * angles.sin()[:, None]

    x = weights["model.tok_embeddings.weight"][ids]
    for layer in range(2):
        at = f"model.layers.{layer}"
        read = norm(x, f"{at}.attention_norm")
        together = (read @ weights[f"{at}.attention.wqkv.weight"].T).view(length, 2, 4, HEAD)
        outputs = []
        for group in range(2):
            queries = turn(together[:, group, :2])
            key, value = turn(together[:, group, 2:3])[:, 0], together[:, group, 3]
            for head in range(2):
                scores = queries[:, head] @ key.T / HEAD**0.5
                later = torch.ones(length, length).triu(1).bool()
                outputs.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ value)
        x = x + torch.cat(outputs, -1) @ weights[f"{at}.attention.wo.weight"].T
        read = norm(x, f"{at}.ffn_norm")
        w1, w2, w3 = (weights[f"{at}.feed_forward.w{n}.weight"] for n in (1, 2, 3))
        x = x + (torch.nn.functional.silu(read @ w1.T) * (read @ w3.T)) @ w2.T
    return norm(x, "model.norm") @ weights["output.weight"].T


def stored(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_its_logits_are_those_of_its_own_layout(internlm2, tmp_path):
    ids = torch.arange(3, 20)
    policy = load_policy(internlm2)
    with torch.no_grad():
        found = policy(input_ids=ids[None], use_cache=False).logits[0]
    assert torch.allclose(found, logits(stored(tmp_path / "internlm2"), ids), rtol=0, atol=1e-4)
    assert LogProbModel(policy, None, "auto").packed


def test_the_export_has_its_layout_to_the_last_bit(internlm2, tmp_path):
    policy = load_policy(internlm2)
    rehearse_export(policy, internlm2)
    weights = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    internlm2 = internlm2.model_copy(update={"trust_remote_code": False})
    write_model(policy, weights, internlm2, None, Folder(tmp_path / "out"), "card")
    base, folder = tmp_path / "internlm2", tmp_path / "out" / "model"
    before, after = stored(base), stored(folder)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    written, own = (json.loads((f / "config.json").read_text()) for f in (folder, base))
    assert written == own | {"torch_dtype": "float32"}
    assert {file.name for file in base.iterdir()} <= {file.name for file in folder.iterdir()}


def test_what_is_learnt_is_in_the_export(internlm2, tmp_path):
    policy = load_policy(internlm2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    weights = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    plain = internlm2.model_copy(update={"trust_remote_code": False})
    write_model(policy, weights, plain, None, Folder(tmp_path / "out"), "card")
    folder = tmp_path / "out" / "model"
    ids = torch.arange(3, 20)
    with torch.no_grad():
        found = policy(input_ids=ids[None], use_cache=False).logits[0]
    assert torch.allclose(found, logits(stored(folder), ids), rtol=0, atol=1e-4)
    again = load_policy(plain.model_copy(update={"path": str(folder)}))
    assert all(torch.equal(p, weights[n]) for n, p in again.named_parameters())


def test_lora_is_merged_into_its_layout_and_adapters_alone_are_refused(internlm2, tmp_path):
    lora = LoraConfig(rank=2, target_modules=["q_proj", "down_proj"])
    policy = load_policy(internlm2)
    with pytest.raises(UserError, match="set training.lora.export=merged"):
        rehearse_export(policy, internlm2, lora.model_copy(update={"export": "adapter"}))
    add_adapters(policy, lora, seed=0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    adapters = {n: p.detach() for n, p in policy.named_parameters() if p.requires_grad}
    plain = internlm2.model_copy(update={"trust_remote_code": False})
    write_model(policy, adapters, plain, lora, Folder(tmp_path / "out"), "card")
    ids = torch.arange(3, 20)
    with torch.no_grad():
        found = policy(input_ids=ids[None], use_cache=False).logits[0]
    written, before = stored(tmp_path / "out" / "model"), stored(tmp_path / "internlm2")
    assert torch.allclose(found, logits(written, ids), rtol=0, atol=1e-4)
    assert not torch.allclose(found, logits(before, ids), rtol=0, atol=1e-1)
