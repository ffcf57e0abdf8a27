"""A real pretrained chat model and real facts through the whole graph: ``maskdpo demo real``."""

import json
import math

from markupsafe import escape

from maskdpo_ray.config import read_config
from maskdpo_ray.stages import Stages
from maskdpo_ray.world.countries.build import build_countries


def test_smollm2_is_aligned_on_a_dozen_questions(
    smollm2, countries, maskdpo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    world = tmp_path / "runs" / "countries"
    build_countries(world)
    overrides = [
        f"run_dir={tmp_path / 'run'}",
        f"model={{path: {smollm2}, dtype: float32}}",
        f"data={{train: {world / 'train.jsonl'}, test: {world / 'validation.jsonl'}, limit: 12}}",
        f"annotation.facts={world / 'facts.json'}",
        "sampling={candidates: 6, max_tokens: 32}",
        "sampling.engine={max_model_len: 256, kv_cache_memory_bytes: 268435456}",
        "systems={mask_dpo: {max_steps: 1, batch_size: 4, learning_rate: 1.0e-5}}",
        "evaluation={samples: 1, best_of_n: [1], max_tokens: 32, bootstrap: 100}",
        "resources={sampler: {actors: 1}, reference: {actors: 1}, training: {workers: 1}}",
    ]
    maskdpo("demo", "real", *overrides)
    stages = Stages(read_config(tmp_path / "run" / "config.yaml", []), look=True)
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
    assert pairs, "a real model says some of it right and some wrong"
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
    maskdpo("review", tmp_path / "run", "--answers")
    pages = {file.stem: file.read_text() for file in (tmp_path / "run" / "answers").iterdir()}
    assert pages.keys() == {"candidates", "base", "mask_dpo"}
    for row in stages.evaluate(stages.base).store.rows():
        for candidate in row["candidates"]:
            for sentence in candidate["sentences"]:
                assert str(escape(sentence["detail"])) in pages["base"]
