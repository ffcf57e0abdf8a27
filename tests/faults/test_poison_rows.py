"""Rows that cannot go on, beside healthy ones in one file, through the real stages and engine.

A poisoned row leaves with a reason, or its sentences get the verdict ``error`` with one; what its
neighbours come to is what they come to without it.
"""

import asyncio
import json
from pathlib import Path

import models
import pytest

from maskdpo_ray.annotation.annotate import Annotate
from maskdpo_ray.annotation.annotators.anah import AnahAnnotator, read_anah_templates
from maskdpo_ray.annotation.annotators.judge import JudgeAnnotator, read_judge_templates
from maskdpo_ray.config import DataConfig, ModelConfig, PreferenceConfig
from maskdpo_ray.engine.chat_model import ChatModel
from maskdpo_ray.preference.processor import PairBuilder
from maskdpo_ray.questions import import_questions
from maskdpo_ray.records import PAIR_SCHEMA, QUESTION_SCHEMA
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sampling.factory import build_given
from maskdpo_ray.sampling.sampler import Decoding, Sampler
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import StageActor

BLOCK = 3
DOCUMENT = "She was born in 1901 in Ashcombe."
HEALTHY = [f"h{n}" for n in range(6)]


def row(row_id: str, question: str | None = None, document: str = DOCUMENT, responses=()) -> dict:
    responses = responses or (f"She was born in {row_id}.", f"She was a baker. Not in {row_id}.")
    return {
        "id": row_id,
        "topic": row_id,
        "question": question or f"Where was {row_id} born?",
        "document": document,
        "candidates": [{"response": response} for response in responses],
    }


POISON = [
    row("over-the-context", "Where was she born? " * 200),
    row("a-megabyte", "x" * 2**20),
    row("no-document", document=""),
    row("surrogate-question", "Where was \ud800 born?"),
    row("surrogate-document", document="Born in \udfff."),
    row("surrogate-candidate", responses=("fine", "not \ud800")),
    row("surrogate-\ud800-id"),
    row("white", responses=(" \n\t ", "She was born in 1901.", "She was a baker in Ashcombe.")),
]


def mixed() -> list[dict]:
    """Healthy and poisoned rows in turn, so that they share blocks."""
    rows = [row(row_id) for row_id in HEALTHY]
    for n, poison in enumerate(POISON):
        rows.insert(2 * n + 1, poison)
    return rows


def through(folder: Path, rows: list[dict], **builds) -> dict[str, StageStore]:
    """The rows through these stages, as their actors would take them, blocks all at once."""
    folder.mkdir()
    file = folder / "q.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    stores = {}
    upstream = StageStore(Folder(folder / "import"), "import", "i", {}, QUESTION_SCHEMA)
    import_questions(str(file), DataConfig(), upstream, BLOCK, {})
    stores["import"] = upstream
    for name, build in builds.items():
        schema = PAIR_SCHEMA if name == "pair" else QUESTION_SCHEMA
        store = StageStore(Folder(folder / name), name, name, {}, schema)
        actor = StageActor(build, store, "id", forward=False, group=BLOCK, gpus=0)
        blocks = [upstream.read_block(block) for block in upstream.blocks(without=set())]
        asyncio.run(all_at_once(actor, blocks))
        store.finish_rows([i for block in upstream.blocks(without=set()) for i in block.ids], 0.0)
        stores[name] = upstream = store
    return stores


async def all_at_once(actor: StageActor, blocks: list) -> None:
    await asyncio.gather(*map(actor, blocks))


def reasons(stores: dict[str, StageStore]) -> dict[str, str]:
    """Of every rejected row: ``stage: reason``."""
    return {
        rejected["id"]: f"{name}: {rejected['reason']}"
        for name, store in stores.items()
        for rejected in store.rejected_rows()
    }


def of_healthy(stores: dict[str, StageStore]) -> dict:
    """What the healthy rows came to in every stage, and why those that were dropped were."""
    rows = {
        (name, made["id"]): made
        for name, store in stores.items()
        for made in store.rows()
        if made["id"] in HEALTHY
    }
    return rows | {i: reason for i, reason in reasons(stores).items() if i in HEALTHY}


def verdicts(stores: dict[str, StageStore]) -> dict[str, list[tuple[str, str]]]:
    return {
        made["id"]: [
            (s["verdict"], s["detail"]) for c in made["candidates"] for s in c["sentences"]
        ]
        for made in stores["annotate"].rows()
    }


@pytest.fixture(scope="module")
def policy() -> ModelConfig:
    return ModelConfig(path=models.tiny_llama(), dtype="float32")


@pytest.fixture(scope="module")
def judge(engine, tmp_path_factory):
    """A judge that has no room for the words of its third verdict: such replies are no verdict."""
    words = {"ok": "y", "contradictory": "Z", "nofact": "unclear to everybody who looks"}
    template = {"prompt": "{document} {question} {sentence}", "verdicts": words}
    file = tmp_path_factory.mktemp("judge") / "judge.yaml"
    file.write_text(json.dumps({"en": template, "zh": template}))
    templates = read_judge_templates(str(file))
    return lambda: Annotate(JudgeAnnotator(ChatModel(engine, 4), templates))


def pair_of(policy):
    return lambda: PairBuilder(policy, PreferenceConfig(max_length=512))


AT_IMPORT = {
    "surrogate-question": "import: not_unicode",
    "surrogate-document": "import: not_unicode",
    "surrogate-candidate": "import: not_unicode",
    "surrogate-\\ud800-id": "import: not_unicode",
}


def of_poison(found: dict[str, str]) -> dict[str, str]:
    return {i: reason for i, reason in found.items() if i not in HEALTHY}


def test_questions_that_are_sampled(engine, policy, judge, tmp_path):
    decoding = Decoding(candidates=3, temperature=0.8, top_k=40, top_p=1, max_tokens=24)
    builds = {
        "sample": lambda: Sampler(engine, decoding, model=policy.path, seed=0),
        "annotate": judge,
        "pair": pair_of(policy),
    }
    stores = through(tmp_path / "mixed", mixed(), **builds)
    alone = through(tmp_path / "alone", [row(row_id) for row_id in [*HEALTHY, "white"]], **builds)
    assert of_healthy(stores) == of_healthy(alone)
    left = of_poison(reasons(stores))
    left.pop("white", None)  # its candidates are replaced by sampled ones
    assert left == AT_IMPORT | {
        "over-the-context": "sample: prompt_too_long",
        "a-megabyte": "sample: prompt_too_long",
        "no-document": "annotate: document_missing",
    }


def test_candidates_that_came_with_the_input(engine, policy, judge, tmp_path):
    builds = {
        "sample": lambda: build_given(policy), "annotate": judge, "pair": pair_of(policy)
    }  # fmt: skip
    stores = through(tmp_path / "mixed", mixed(), **builds)
    alone = through(tmp_path / "alone", [row(row_id) for row_id in HEALTHY], **builds)
    assert of_healthy(stores) == of_healthy(alone)
    left = of_poison(reasons(stores))
    left.pop("white", None)  # two candidates are healthy
    assert left == AT_IMPORT | {
        "no-document": "annotate: document_missing",
        "over-the-context": "pair: prompt_too_long",
        "a-megabyte": "pair: prompt_too_long",
    }
    found = verdicts(stores)
    for row_id in ("over-the-context", "a-megabyte"):
        for verdict, detail in found[row_id]:
            assert verdict == "error" and "longer than the maximum model length" in detail
    assert found["white"][0] == ("error", "nothing but white space")
    # Of the healthy rows' own sentences, some replies cannot be read and the others stand.
    replies = [verdict for row_id in HEALTHY for verdict in found[row_id]]
    unread = [detail for verdict, detail in replies if verdict == "error"]
    assert 0 < len(unread) < len(replies)
    assert all("no verdict" in detail for detail in unread)


def test_an_annotator_whose_replies_cannot_be_parsed(engine, policy, tmp_path):
    builds = {
        "sample": lambda: build_given(policy),
        "annotate": lambda: Annotate(AnahAnnotator(ChatModel(engine, 8), read_anah_templates())),
        "pair": pair_of(policy),
    }
    stores = through(tmp_path / "mixed", mixed(), **builds)
    for row_id in HEALTHY:
        for verdict, detail in verdicts(stores)[row_id]:
            assert verdict == "error" and json.loads(detail)["reason"].startswith("turn 1: ")
        assert reasons(stores)[row_id] == "pair: too_few_candidates"
