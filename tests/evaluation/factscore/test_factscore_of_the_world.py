"""The whole evaluator where the truth is known: the pages of the closed world."""

import asyncio
import json
from pathlib import Path

import pytest
from world_reader import WorldReader, answered

from maskdpo_ray.evaluation.factscore.examiner import FactExaminer
from maskdpo_ray.evaluation.factscore.facts import FactWriter
from maskdpo_ray.evaluation.factscore.score import factscore
from maskdpo_ray.evaluation.factscore.verification import Verifier
from maskdpo_ray.evaluation.factscore.wording import read_wording
from maskdpo_ray.knowledge.database import Knowledge
from maskdpo_ray.knowledge.finder import Finder
from maskdpo_ray.knowledge.retrieval import Bm25Index
from maskdpo_ray.storage import Folder
from maskdpo_ray.world.annotator import closed_world_verdict
from maskdpo_ray.world.place import WorldPlace, world_knowledge


@pytest.fixture
def place(small_world) -> WorldPlace:
    return WorldPlace(small_world, Folder(small_world))


@pytest.fixture
def questions(small_world) -> list[dict]:
    lines = (small_world / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_verdicts_are_those_of_the_annotator_that_knows_the_truth(place, questions):
    wording = read_wording()
    examiner = FactExaminer(
        FactWriter(WorldReader(), wording, 2),
        Verifier(WorldReader(), wording),
        Finder(Knowledge(world_knowledge(place)), Bm25Index, 5),
    )
    rows = asyncio.run(examiner(answered(questions)))
    truth = json.loads((place.built / "facts.json").read_text(encoding="utf-8"))
    found, exact = [], []
    for row in rows:
        for answer in row["answers"]:
            for sentence in answer["sentences"]:
                text = answer["response"][sentence["start"] : sentence["end"]]
                verdict, _ = closed_world_verdict(truth, row["topic"], text)
                exact.append(verdict)
                found.append([fact["verdict"] for fact in sentence["facts"]])
    expected = {"ok": ["supported"], "contradictory": ["not_supported"], "nofact": []}
    assert found == [expected[verdict] for verdict in exact]
    assert min(exact.count(verdict) for verdict in expected) >= 10
    score = factscore(rows)
    assert score["micro"] == pytest.approx(
        100 * exact.count("ok") / (exact.count("ok") + exact.count("contradictory"))
    )
    assert score["penalised"] < score["macro"], "no answer of the world states ten facts"
    assert (score["abstained"], score["scored"], score["errors"]) == (1, len(rows) - 1, 0)
    assert score["topics"] == 8


def test_every_person_has_a_page(place, small_world):
    knowledge = Knowledge(world_knowledge(place))
    for name in ("train", "validation", "test"):
        for line in (small_world / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert knowledge.page(row["topic"]) == row["document"]


def test_it_is_made_once_and_named_by_its_content(small_world, tmp_path):
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_bytes((small_world / f"{name}.jsonl").read_bytes())
    place = WorldPlace(tmp_path, Folder(tmp_path))
    assert not Path(world_knowledge(place, build=False)).exists()
    made = Path(world_knowledge(place))
    before = made.stat().st_mtime_ns
    assert world_knowledge(place) == str(made) and made.stat().st_mtime_ns == before
    lines = (tmp_path / "test.jsonl").read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(lines[3:]))
    other = Path(world_knowledge(place))
    assert other != made and other.is_file()
