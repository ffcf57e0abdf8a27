import json

import pytest
from labelled_facts import People, answers_of

from maskdpo_ray.evaluation.factscore.examiner import FactExaminer
from maskdpo_ray.evaluation.factscore.facts import FactWriter
from maskdpo_ray.evaluation.factscore.verification import Verifier
from maskdpo_ray.evaluation.factscore.wording import read_wording
from maskdpo_ray.knowledge.database import Knowledge, build_knowledge
from maskdpo_ray.knowledge.finder import Finder
from maskdpo_ray.knowledge.retrieval import Bm25Index


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
    build_knowledge(folder / "unsearched.db", [folder / "pages.jsonl"], search=False)
    return Knowledge(folder / "pages.db")


@pytest.fixture
def examiner(biographies, pages):
    """Makes an examiner in which people stand for the models, and sentences are cut as people
    cut them."""

    def make(
        model: str, people: People | None = None, k: int = 5, searched: bool = True, **settings
    ) -> FactExaminer:
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
            Finder(
                pages if searched else Knowledge(pages.path.with_name("unsearched.db")),
                Bm25Index,
                k,
            ),
            **{"split": lambda text, language: cuts[text], **settings},
        )

    return make
