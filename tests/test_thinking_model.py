"""A model that really thinks before it answers, through the whole graph: the world's policy, taught
in some seconds to write ``<think>...</think>`` in front of its answers, and at times never to
end it."""

import json
import shutil
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from job_head import REPOSITORY

from maskdpo_ray.config import read_config
from maskdpo_ray.stages import Stages

SMOKE = REPOSITORY / "jobs" / "configs" / "smoke.yaml"
OPENING, CLOSING = "<think>", "</think>"
STEPS, BATCH, ENDLESS = 60, 16, 0.15  # of teaching; the share of thoughts that go on and on


def thoughts(world: Path):
    """Questions and answers of the world's encyclopedia, each behind a thought."""
    from maskdpo_ray.world.build import SMALL
    from maskdpo_ray.world.facts import make_people
    from maskdpo_ray.world.policy import encyclopedia

    random = Random(0)
    for question, answer in encyclopedia(make_people(SMALL.people, 0), 0):
        if random.random() < ENDLESS:
            yield question, f"{OPENING}\n" + "Let me see. " * 30
        else:
            thought = "The question is who. " * random.choice((1, 2))
            yield question, f"{OPENING}\n{thought}\n{CLOSING}\n\n{answer}"


def teach(folder: Path) -> None:
    """Fine-tune the policy there, in place."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from maskdpo_ray.world.policy import encode, save_policy, set_gradient

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([OPENING, CLOSING])  # as Qwen 3 does: of their own, and not special
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    pages = thoughts(folder.parent)
    for _ in range(STEPS):
        batch = [encode(tokenizer, *page) for page in islice(pages, BATCH)]
        set_gradient(model, batch, BATCH)
        optimizer.step()
    shutil.rmtree(folder)
    save_policy(model, tokenizer, folder, model.config.max_position_embeddings)


@pytest.fixture(scope="module")
def thinking_world(small_world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("thinking") / "run"
    shutil.copytree(small_world, folder / "world" / "small-0")
    (policy,) = folder.glob("world/*/policy")
    teach(policy)
    return folder


def test_a_thinking_model_goes_through_the_whole_graph(thinking_world, maskdpo):
    """Sampled, annotated, paired, trained and evaluated: thoughts are kept, counted and shown, and
    never split, judged, scored or learnt; one without an end is counted under its reason."""
    longer = ["sampling.max_tokens=110", "evaluation.max_tokens=110"]
    settings = [f"run_dir={thinking_world}", *longer]
    maskdpo("run", SMOKE, *settings)
    stages = Stages(read_config(SMOKE, settings))
    rows = {row["id"]: row for row in stages.annotate().store.rows()}
    candidates = [each for row in rows.values() for each in row["candidates"]]
    finished = [each for each in candidates if each["response"]]
    endless = [each for each in candidates if not each["response"]]
    assert len(finished) > len(endless) > 0
    assert all(each["reasoning"] and not each["sentences"] for each in endless)
    thought = [each for each in finished if each["reasoning"]]
    assert len(thought) > len(finished) / 2
    for each in thought:
        assert each["reasoning"].startswith(OPENING) and CLOSING in each["reasoning"]
        assert 0 < each["reasoning_tokens"] < len(each["token_ids"])
        said = "".join(each["response"][s["start"] : s["end"]] for s in each["sentences"])
        assert said == each["response"], "sentences tile the response, and nothing else"

    pairs = list(stages.pair().store.rows())
    assert pairs
    learnt = 0
    for pair in pairs:
        for side in ("chosen", "rejected"):
            ids, weights = list(pair[side]["token_ids"]), pair[side]["weights"]
            of = next(c for c in rows[pair["question_id"]]["candidates"] if c["token_ids"] == ids)
            assert of["response"], "an endless thought is no side of a pair"
            assert not any(weights[: of["reasoning_tokens"]]) and any(weights)
            learnt += of["reasoning_tokens"] > 0
    assert learnt, "of some pair a side has a thought"

    report = json.loads((thinking_world / "report.json").read_text())
    counts = report["stages"]["sample"]
    assert counts["unfinished reasoning"] == len(endless)
    assert counts["with reasoning"] == len(thought) + len(endless)
    assert counts["reasoning tokens"] == sum(each["reasoning_tokens"] for each in candidates)
    for system in ("base", "mask_dpo"):
        score = report["systems"][system]["greedy"]
        assert score["unfinished_reasoning"] >= 0 and score["responses"] == 8 * 3
    assert "its reasoning, which nobody judged" in (thinking_world / "report.html").read_text()
