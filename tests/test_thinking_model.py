"""A model that really thinks before it answers, through the whole graph: the world's policy, taught
in some seconds to write ``<think>...</think>`` in front of its answers, and at times never to
end it."""

import json
import shutil
from itertools import islice
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from job_head import REPOSITORY

from maskdpo_ray.config import read_config
from maskdpo_ray.stages import Stages

SMOKE = REPOSITORY / "jobs" / "configs" / "smoke.yaml"
OPENING, CLOSING = "<think>", "</think>"
STEPS, BATCH, ENDLESS = 120, 16, 0.2  # of teaching; the share of thoughts that go on and on


def thoughts(world: Path):
    """Questions and answers of the world's encyclopedia, each behind a thought."""
    from maskdpo_ray.world.build import SMALL
    from maskdpo_ray.world.facts import make_people
    from maskdpo_ray.world.policy import encyclopedia

    random = Random(0)
    for question, answer in encyclopedia(make_people(SMALL.people, 0), 0):
        thought = f"{OPENING}\n" + "The question is who. " * random.choice((1, 2))
        if random.random() < ENDLESS:
            yield question, f"{OPENING}\n" + "The question is who. The answer is who. " * 9
        else:
            yield question, f"{thought}\n{CLOSING}\n\n{answer}"


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
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
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


LONGER = ["sampling.max_tokens=110", "evaluation.max_tokens=110", "sampling.candidates=6"]


def test_a_thinking_model_goes_through_the_whole_graph(thinking_world, maskdpo):
    run_dir = thinking_world
    maskdpo("run", SMOKE, f"run_dir={run_dir}", *LONGER)
    stages = Stages(read_config(SMOKE, [f"run_dir={run_dir}", *LONGER]))
    rows = list(stages.annotate().store.rows())
    candidates = [each for row in rows for each in row["candidates"]]
    finished = [c for c in candidates if c["response"]]
    endless = [c for c in candidates if not c["response"]]
    print("XX", len(finished), len(endless), finished[0], endless[:1])
    assert len(finished) > len(endless) > 0
    for each in finished:
        assert each["reasoning"].startswith(OPENING) and CLOSING in each["reasoning"]
        assert CLOSING not in each["response"] and "question is" not in each["response"]
        assert 0 < each["reasoning_tokens"] < len(each["token_ids"])
        # Sentences are of the response alone, and tile it.
        said = "".join(each["response"][s["start"] : s["end"]] for s in each["sentences"])
        assert said == each["response"]
    assert all(c["reasoning"] and not c["sentences"] for c in endless)
    counts = stages.sample().store.manifest()["counts"]
    print("XX", counts)
    pairs = list(stages.pair().store.rows())
    assert pairs
    for pair in pairs:
        for side in ("chosen", "rejected"):
            answer = pair[side]
            before = next(
                c["reasoning_tokens"]
                for row in rows if row["id"] == pair["question_id"]
                for c in row["candidates"] if c["token_ids"] == list(answer["token_ids"])
            )  # fmt: skip
            assert before > 0 and not any(answer["weights"][:before])
    report = json.loads((run_dir / "report.json").read_text())
    print("XX", json.dumps(report)[:3000])
    page = (run_dir / "report.html").read_text()
    assert "question is who" in page
