"""A real pretrained chat model, with its own template, through the whole graph."""

import json
import math

import yaml
from capitals import CAPITALS, question

from maskdpo_ray.config import read_config
from maskdpo_ray.stages import Stages

TEST = ("Norway", "Portugal")  # the others are trained on
ENGINE = {"max_model_len": 256, "kv_cache_memory_bytes": 2**28}


def test_smollm2_is_aligned_on_a_dozen_questions(smollm2, maskdpo, tmp_path):
    for name in ("train", "test"):
        asked = [country for country in CAPITALS if (country in TEST) == (name == "test")]
        lines = [json.dumps(question(country)) + "\n" for country in asked]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "run_dir": str(tmp_path / "run"),
                "model": {"path": str(smollm2), "dtype": "float32"},
                "data": {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")},
                "sampling": {"candidates": 6, "max_tokens": 32, "engine": ENGINE},
                "annotation": {"annotator": "capitals:verdict"},
                "preference": {"max_length": 256},
                "training": {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-5},
                "evaluation": {"samples": 1, "best_of_n": [1], "max_tokens": 32, "bootstrap": 100},
            }
        )
    )
    maskdpo("run", config)
    stages = Stages(read_config(str(config), []), look=True)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row in stages.sample().store.rows():
        # The template brings a system prompt of its own.
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}], add_generation_prompt=True
        )
        assert row["prompt_ids"] == list(getattr(asked, "input_ids", asked))
        assert "You are a helpful AI assistant named SmolLM" in tokenizer.decode(asked.input_ids)
        for candidate in row["candidates"]:
            text = tokenizer.decode(candidate["token_ids"], skip_special_tokens=True)
            assert text == candidate["response"] and not candidate["reasoning"]
            assert (candidate["token_ids"][-1] == end) == (candidate["finish_reason"] == "stop")
    pairs = list(stages.pair().store.rows())
    assert pairs, "a real model says some capitals right and some wrong"
    for pair in pairs:
        assert pair["chosen"]["score"] > pair["rejected"]["score"]
        assert {0.0, 1.0} >= set(pair["chosen"]["weights"]) | set(pair["rejected"]["weights"])
    trained = stages.train("mask_dpo")
    first = json.loads(trained.folder.read("metrics.jsonl").splitlines()[0])
    assert math.isclose(first["loss"], math.log(2), abs_tol=1e-4)  # policy and reference agree
    report = stages.dir.folder.read_json("report.json")
    assert report["systems"].keys() == {"base", "mask_dpo"}
    for scores in report["systems"].values():
        assert scores["greedy"]["errors"] == 0 and scores["greedy"]["mean_tokens"] > 4
