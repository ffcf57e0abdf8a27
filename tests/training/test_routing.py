"""The auxiliary loss of routers is the model's own of a whole step, however that is cut; experts
that some worker's tokens do not reach stop nobody."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from runs import losses

from maskdpo_ray.config import ModelConfig, TrainingConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.training.batch_plan import global_batch
from maskdpo_ray.training.batches import collate, training_pairs
from maskdpo_ray.training.logprobs import LogProbModel
from maskdpo_ray.training.model import load_policy

# Experts that are modules of their own, as in code that models bring along.
OLD_MOE = """
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


class OldMoeConfig(LlamaConfig):
    model_type = "old_moe"


class Experts(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gate = nn.Linear(size, 8, bias=False)
        self.experts = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(8))

    def forward(self, hidden):
        rows = hidden.flatten(0, -2)
        weights, best = self.gate(rows).softmax(-1).max(-1)
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            where = (best == number).nonzero()[:, 0]
            if len(where):
                total = total.index_add(0, where, expert(rows[where]) * weights[where, None])
        return total.view_as(hidden)


class OldMoeForCausalLM(LlamaForCausalLM):
    config_class = OldMoeConfig

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = Experts(config.hidden_size)
        self.post_init()
"""


def step_of(pairs, references, settings):
    """The pairs of the first step, as training takes them."""
    rows = training_pairs(pairs, {row["id"]: row for row in references}, settings)
    return [rows[index] for index in global_batch(0, len(rows), settings.batch_size, seed=0)]


def own_aux_loss(policy, rows):
    """The policy's own, of all sequences in one padded batch."""
    batch = collate(rows)
    asked = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return policy(**asked, use_cache=False, output_router_logits=True).aux_loss


def zeros(pairs):
    sides = ("chosen", "rejected")
    return [
        {"id": p["digest"], **{side: [0.0] * len(p[side]["token_ids"]) for side in sides}}
        for p in pairs
    ]


@pytest.mark.parametrize("packing", [False, "auto"])
@pytest.mark.parametrize(
    "family",
    ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "granitemoe", "dbrx", "jetmoe", "jamba", "phimoe",
     "qwen3_5_moe", "ernie4_5_moe"],
)  # fmt: skip
def test_passes_add_up_to_the_models_own_loss_and_gradient(family, packing, sweep, tmp_path):
    sweep.build(family, tmp_path / "base")
    model = ModelConfig(path=str(tmp_path / "base"), dtype="float32")
    data = sweep.pairs()
    settings = TrainingConfig(batch_size=6)
    rows = step_of(data, zeros(data), settings)
    plain = load_policy(model, settings).eval()
    own = own_aux_loss(plain, rows)
    own.backward()
    ours = LogProbModel(load_policy(model, settings), None, packing, 0.5).train()
    assert ours.routers.weight == 0.5
    cut = [collate(rows[:1], ours.packed), collate(rows[1:4], ours.packed),
           collate(rows[4:], ours.packed)]  # fmt: skip
    sums = [ours(**each.inputs(), routed=True)[1] for each in cut]
    counted = sum(each[0].detach() for each in sums).double().numpy()
    aux = sum(map(ours.routers.balance(counted).of_pass, sums))
    assert float(aux.detach()) == pytest.approx(float(own.detach()), rel=1e-5)
    aux.backward()
    wanted = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    largest = max(float(each.abs().max()) for each in wanted.values())
    assert largest > 0
    for name, parameter in ours.policy.named_parameters():
        if name in wanted:
            torch.testing.assert_close(
                parameter.grad, wanted[name], rtol=0, atol=1e-4 * largest, msg=name
            )


@pytest.mark.parametrize(
    ("family", "weight", "words"),
    [
        ("llama", 0.01, "LlamaForCausalLM computes no auxiliary loss of routers: remove"),
        ("gemma3", "model", "names no weight"),
        ("deepseek_v3", 0.01, "DeepseekV3ForCausalLM computes no auxiliary loss of routers"),
        ("mamba2", 0.01, "computes no auxiliary loss"),
    ],
)
def test_a_model_without_such_a_loss_is_refused_at_load(family, weight, words, sweep, tmp_path):
    from maskdpo_ray.training.worker import load_to_train

    sweep.build(family, tmp_path / "base")
    model = ModelConfig(path=str(tmp_path / "base"), dtype="float32")
    with pytest.raises(UserError, match=f"^training.router_aux_weight.*{words}"):
        load_to_train(model, TrainingConfig(router_aux_weight=weight), seed=0)


def test_a_weight_is_a_number_or_the_models_own():
    assert TrainingConfig(router_aux_weight="model").router_aux_weight == "model"
    for wrong in (-0.1, "config"):
        with pytest.raises(ValidationError, match="router_aux_weight"):
            TrainingConfig(router_aux_weight=wrong)


@pytest.fixture(scope="module")
def moe(tiny_llama, tmp_path_factory):
    """Makes a tiny model of a kind with the tiny Llama's tokenizer: eight experts in two layers."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    small = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "num_local_experts": 8, "num_experts": 8, "num_experts_per_tok": 1, "num_routed_experts": 8,
        "max_position_embeddings": 128, "router_aux_loss_coef": 0.02, "initializer_range": 0.2,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "tie_word_embeddings": False,
    }  # fmt: skip

    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        if kind == "old_moe":
            space: dict = {}
            exec(OLD_MOE, space)
            space["OldMoeForCausalLM"](space["OldMoeConfig"](**small)).save_pretrained(folder)
            (folder / "modeling_old_moe.py").write_text(OLD_MOE)
            config = AutoConfig.from_pretrained(tiny_llama).to_dict() | small
            config |= {
                "model_type": kind, "architectures": ["OldMoeForCausalLM"],
                "auto_map": {"AutoConfig": "modeling_old_moe.OldMoeConfig",
                             "AutoModelForCausalLM": "modeling_old_moe.OldMoeForCausalLM"},
            }  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config))
        else:
            config = AutoConfig.for_model(kind, **small)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
        return ModelConfig(path=str(folder), dtype="float32", trust_remote_code=kind == "old_moe")

    return make


def references_of(model, pairs, settings):
    import asyncio

    from maskdpo_ray.training.reference import ReferenceProcessor

    return asyncio.run(ReferenceProcessor(model, settings)(pairs))


def test_the_step_has_the_models_own_loss_however_it_is_cut(
    moe, make_job, pairs, settings, one_rank, two_ranks
):
    model = moe("mixtral")
    references = references_of(model, pairs, settings)
    fields = {"model": model, "references": lambda: references}
    changes = {"router_aux_weight": "model", "max_steps": 5, "adam_eps": 1e-3}
    alone = one_rank.train(
        make_job("alone", fields, **changes, micro_batch_tokens=10**6, holdout=0.0)
    )
    rows = step_of(pairs, references, settings)
    own = float(own_aux_loss(load_policy(model).eval(), rows).detach())
    assert alone[0]["aux_loss"] == pytest.approx(own, rel=1e-5)
    assert alone[0]["loss"] == pytest.approx(np.log(2) + 0.02 * own, abs=1e-6)
    plain = one_rank.train(make_job("plain", fields, **changes | {"router_aux_weight": 0.0}))
    assert "aux_loss" not in plain[0]
    assert abs(plain[0]["grad_norm"] - alone[0]["grad_norm"]) > 1e-4
    for name, ranks, other in (
        ("cut", one_rank, {"micro_batch_tokens": 1}),
        ("padded", one_rank, {"packing": False}),
        ("again", one_rank, {"gradient_checkpointing": True}),
        ("two", two_ranks, {"zero_stage": 2}),
        ("sharded", two_ranks, {"zero_stage": 3, "micro_batch_tokens": 1}),
    ):
        lines = ranks.train(make_job(name, fields, **changes | other))
        for key in ("loss", "aux_loss", "grad_norm"):
            got, wanted = ([line[key] for line in each] for each in (lines, alone))
            assert got == pytest.approx(wanted, rel=1e-4), (name, key)


@pytest.mark.parametrize(
    ("kind", "stage"),
    [("mixtral", 3), ("qwen3_moe", 3), ("gpt_oss", 3), ("gpt_oss", 2),
     *(("old_moe", stage) for stage in range(4))],
)  # fmt: skip
def test_experts_that_a_worker_does_not_reach_stop_nobody(
    kind, stage, moe, make_job, make_pair, settings, one_rank, two_ranks
):
    """Pairs of a few tokens and eight experts, one for a token: in each pass some are not asked on
    one worker and are on the other."""
    pairs = [make_pair(number, 1, 2, 1) for number in range(6)]
    model = moe(kind)
    references = references_of(model, pairs, settings)
    fields = {"model": model, "references": lambda: references, "pairs": lambda: pairs}
    changes = {"batch_size": 2, "epochs": 1, "micro_batch_tokens": 1, "adam_eps": 1e-3}
    alone = one_rank.train(make_job("alone", fields, **changes))
    shared = two_ranks.train(make_job("shared", fields, **changes, zero_stage=stage))
    assert losses(shared) == pytest.approx(losses(alone), rel=1e-5)
    norms = [[line["grad_norm"] for line in lines] for lines in (shared, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_configuration_that_asks_for_the_loss_is_heard(moe, caplog):
    """Transformers' trainers would add it; here the setting decides."""
    model = moe("mixtral")
    policy = load_policy(model)
    policy.config.output_router_logits = True
    assert LogProbModel(policy, None).routers is None
    assert "training.router_aux_weight=0 leaves it out: set it to model" in caplog.text
    asked = LogProbModel(load_policy(model), None, router_aux_weight="model").routers
    assert (asked.experts, asked.chosen, asked.weight) == (8, 1, 0.02)
