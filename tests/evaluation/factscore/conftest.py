import json

import pytest
from labelled_facts import People, answers_of

from maskdpo_ray.evaluation.factscore.examiner import FactExaminer
from maskdpo_ray.evaluation.factscore.facts import FactWriter
from maskdpo_ray.evaluation.factscore.knowledge import Knowledge, build_knowledge
from maskdpo_ray.evaluation.factscore.retrieval import Bm25Index
from maskdpo_ray.evaluation.factscore.verification import Verifier
from maskdpo_ray.evaluation.factscore.wording import read_wording


@pytest.fixture(scope="session")
def pages(biographies, tmp_path_factory) -> Knowledge:
    """A page for each person: what PerplexityAI found."""
    folder = tmp_path_factory.mktemp("knowledge")
    with open(folder / "pages.jsonl", "w", encoding="utf-8") as file:
        for row in biographies:
            (answer,) = answers_of(row, "PerplexityAI")
            page = {"title": row["topic"], "text": answer["response"]}
            file.write(json.dumps(page) + "\n")
    build_knowledge(folder / "pages.db", [folder / "pages.jsonl"])
    return Knowledge(folder / "pages.db")


@pytest.fixture
def examiner(biographies, pages):
    """Makes an examiner in which people stand for the models, and sentences are cut as people
    cut them."""

    def make(model: str, people: People | None = None, **settings) -> FactExaminer:
        people = people or People(biographies, model)
        cuts = {
            answer["response"]: [(s["start"], s["end"]) for s in answer["sentences"]]
            for row in biographies
            for answer in answers_of(row, model)
        }
        wording = read_wording()
        return FactExaminer(
            FactWriter(people, wording, 2),
            Verifier(people, wording),
            pages,
            Bm25Index,
            **{"k": 5, "split": lambda text, language: cuts[text], **settings},
        )

    return make
