import asyncio
import json

import pytest

from maskdpo_ray.config import AnnotationConfig
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.stages.annotating import build_annotator
from maskdpo_ray.storage import Folder
from maskdpo_ray.world.facts import KINDS, document, make_people

PEOPLE = make_people(20, seed=0)
PERSON = PEOPLE[0]


@pytest.fixture
def annotate(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps({person.name: person.facts for person in PEOPLE}))
    return build_annotator(AnnotationConfig.of(annotator="closed_world"), Folder(tmp_path))


def row(topic: str, response: str) -> dict:
    candidate = {"response": response, "token_ids": [1], "sentences": []}
    return {"id": "q", "topic": topic, "language": "en", "candidates": [candidate]}


def verdicts(annotate, response: str) -> list[str]:
    [out] = asyncio.run(annotate([row(PERSON.name, response)]))
    return [sentence["verdict"] for sentence in out["candidates"][0]["sentences"]]


def test_the_truth_is_told_from_what_is_not(annotate):
    truth = document(PERSON)
    assert set(verdicts(annotate, truth)) == {"ok"}
    assert len(verdicts(annotate, truth)) == len(PERSON.facts)
    right = PERSON.facts["occupation"]
    wrong = next(value for value in KINDS["occupation"].values if value != right)
    found = verdicts(annotate, truth.replace(right, wrong) + " Bla bla.")
    assert found.count("contradictory") == 1 and found[-1] == "unverifiable"


def test_a_topic_of_another_world_rejects_the_row(annotate):
    [rejected] = asyncio.run(annotate([row("Nobody Atall", "She was.")]))
    assert isinstance(rejected, RowRejected) and rejected.reason == "unknown_topic"
    assert "'Nobody Atall'" in rejected.detail


def test_facts_must_be_there(tmp_path):
    for world in (None, Folder(tmp_path / "elsewhere")):
        with pytest.raises(UserError, match="needs the world's facts.json"):
            build_annotator(AnnotationConfig.of(annotator="closed_world"), world)
