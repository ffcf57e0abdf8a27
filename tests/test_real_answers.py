"""The graph on real, human-labelled answers with the real Llama-3 tokenizer (no sampling)."""

import json
import math
from pathlib import Path

import pytest

from maskdpo_ray.config import build_config
from maskdpo_ray.stages import Stages


@pytest.fixture(scope="session")
def llama3_policy(tmp_path_factory, llama3_tokenizer) -> Path:
    """A small random Llama with the real vocabulary of Llama 3 (128,256 entries)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama3") / "policy"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(llama3_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=llama3_tokenizer.bos_token_id,
        eos_token_id=llama3_tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    llama3_tokenizer.save_pretrained(folder)
    return folder


def config_of(run_dir: Path, policy: Path, questions: Path) -> dict:
    return {
        "run_dir": str(run_dir),
        "model": {"path": str(policy), "dtype": "float32"},
        "data": {"train": str(questions)},
        "sampling": {"source": "input"},
        "annotation": {"annotator": "labels"},
        "preference": {"max_length": 2048},
        "training": {
            "learning_rate": 1e-3, "batch_size": 4, "max_steps": 12, "zero_stage": 2,
            "micro_batch_tokens": 8192,
        },
        "resources": {"training": {"workers": 2}, "reference": {"actors": 2}},
    }  # fmt: skip


def test_biographies_train_from_ln_2_downwards(real_data, llama3_policy, maskdpo, tmp_path):
    """Pairs of all of them; every fourth is learnt from, which takes minutes less."""
    tree = config_of(tmp_path / "run", llama3_policy, real_data / "factscore_bio.jsonl")
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(tree))  # JSON is YAML
    said = "".join(maskdpo(verb, path) for verb in ("sample", "annotate", "pair"))
    assert "pair: 183 in, 172 out" in said
    pairs = Stages(build_config(tree)).pair().store
    assert pairs.manifest()["counts"] == {
        "in": 183, "out": 172, "rejected": {"too_few_candidates": 5, "equal_scores": 6}
    }  # fmt: skip

    part = sorted(({key: row[key] for key in ("id", "question")} for row in pairs.rows()), key=str)
    (tmp_path / "part.jsonl").write_text("\n".join(map(json.dumps, part[::4])))
    tree["preference"]["questions"] = str(tmp_path / "part.jsonl")
    path.write_text(json.dumps(tree))
    maskdpo("run", path, "--rerun")
    stages = Stages(build_config(tree), rerun=True)
    assert stages.pair().store.manifest()["counts"]["out"] == len(part[::4]) == 43
    lines = stages.train("mask_dpo").folder.read("metrics.jsonl").decode().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 12
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert sum(losses[-5:]) / 5 < 0.5


def test_tofueval_gives_pairs_stage_by_stage(real_data, llama3_policy, maskdpo, tmp_path):
    """Pairs and masks only: the authors of this data ask that no model is trained on it."""
    tree = config_of(tmp_path / "run", llama3_policy, real_data / "tofueval.jsonl")
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(tree))
    early = maskdpo("pair", path, code=2)
    assert "stage annotate is not finished for this configuration: run `maskdpo annotate`" in early
    verbs = ("sample", "annotate", "pair")
    said = "".join(maskdpo(verb, path) for verb in verbs)
    assert "sample: 300 in, 299 out, 1 rejected (too_few_candidates)" in said
    assert "pair: 299 in, 251 out, 48 rejected (equal_scores)" in said

    stages = Stages(build_config(tree))
    store = stages.pair().store
    public = store.folder.read("pairs.jsonl").decode().splitlines()
    assert len(public) == 251
    for row in store.rows():
        for name in ("chosen", "rejected"):
            assert len(row[name]["weights"]) == len(row[name]["token_ids"])
            assert any(row[name]["weights"])
