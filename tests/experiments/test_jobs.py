"""What the jobs of the tables decide by themselves."""

import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def job(monkeypatch):
    """A job as a module."""
    monkeypatch.syspath_prepend(str(JOBS))

    def load(name: str):
        return __import__(name)

    yield load
    for name in [n for n, module in sys.modules.items() if str(JOBS) in str(module)]:
        del sys.modules[name]


def rewarded(*rewards) -> dict:
    candidates = [{"response": f"answer {n}", "reward": r} for n, r in enumerate(rewards)]
    return {
        "id": "q", "topic": "t", "question": "Who?", "document": None, "language": "en",
        "candidates": candidates,
    }  # fmt: skip


def test_factunes_matched_pair_is_the_best_and_the_worst(job):
    (pair,) = job("table1").best_and_worst(rewarded(0.5, None, 0.2, 0.9, 0.2))
    assert [c["response"] for c in pair["candidates"]] == ["answer 3", "answer 2"]
    assert job("table1").best_and_worst(rewarded(0.5, 0.5, None)) == []
    assert job("table1").best_and_worst(rewarded(None, None)) == []


def test_parts_of_table_4_are_nested(job):
    rows = [{"id": f"{t}-{q}", "topic": str(t)} for t in range(9) for q in range(3)]
    parts = {
        name: {row["id"] for row in part(rows, 0)} for name, part in job("table4").PARTS.items()
    }
    assert parts["1/3 of the topics"] < parts["2/3 of the topics"]
    assert parts["1 question a topic"] < parts["2 questions a topic"]
    assert len(parts["1/3 of the topics"]) == len(parts["1 question a topic"]) == 9


@pytest.mark.parametrize("text", ["model", "=model", "name="])
def test_an_embedding_has_a_name(job, text):
    with pytest.raises(Exception, match="must read NAME=MODEL"):
        job("table5").named(text)


def test_every_table_has_the_papers_figures(job):
    from maskdpo_ray.experiments import published

    assert set(job("table4").PARTS) | {job("table4").WHOLE} == set(published.TABLE_4)
    assert set(job("table2").SYSTEMS) == set(published.TABLE_2)
    assert {"before", "after"} == set(published.TABLE_6) == set(job("table6").SYSTEMS)
