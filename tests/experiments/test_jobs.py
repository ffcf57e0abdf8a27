"""What the jobs of the tables decide by themselves."""

import sys
from pathlib import Path

import pytest

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.lab import Lab, named

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
def test_a_model_or_file_has_a_name(text):
    with pytest.raises(UserError, match=f"--embedding '{text}' must read NAME=VALUE"):
        named("embedding", text)


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(str(JOBS / "configs" / "paper.yaml"), str(tmp_path), [0])


@pytest.mark.parametrize(
    ("table", "given", "words"),
    [
        ("table1", {"test": ["bio=f"], "facttune_samples": 10}, "the world provides the questions"),
        ("table1", {"test": [], "facttune_samples": 1}, "--facttune-samples 1: a pair needs 2"),
        ("table5", {"embedding": ["policy=x"], "pooling": []}, "needs a name of its own"),
        ("table5", {"embedding": [], "pooling": ["other=last"]}, "NAME is one of policy, and"),
        ("table5", {"embedding": [], "pooling": ["policy=max"]}, "one of mean, mean_all, last"),
        ("table6", {"samples": 1}, "--samples 1: best of N needs at least 2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(job, lab, table, given, words):
    with pytest.raises(UserError, match=words):
        job(table).EXPERIMENT.check(lab, **given)


def test_without_the_closed_world_another_model_must_be_named(job, tmp_path):
    real = Lab(str(JOBS / "configs" / "llama3.1-8b-anah.yaml"), str(tmp_path), [0])
    with pytest.raises(UserError, match="table 3 needs --other"):
        job("table3").EXPERIMENT.check(real, other=None)
    job("table3").EXPERIMENT.check(real, other="org/model")
    sets = job("table1").question_sets(real, ["biographies=bio.jsonl"])
    assert [settings for settings, _ in sets.values()] == [[], ["data.test=bio.jsonl"]]


def answer(index: int, verdicts: str) -> dict:
    """A letter is a sentence: o ok, c contradictory, e error."""
    words = {"o": "ok", "c": "contradictory", "e": "error"}
    sentences = [
        {"start": n, "end": n + 1, "verdict": words[letter]} for n, letter in enumerate(verdicts)
    ]
    return {"index": index, "response": verdicts, "token_ids": [1], "sentences": sentences}


def documented(job, *verdicts: str) -> list[list[str]]:
    """Responses of the pair of answers with the document and, the last one, without."""
    row = {
        "id": "q", "topic": "t", "question": "Who?", "document": "D", "language": "en",
        "candidates": [answer(n, of) for n, of in enumerate(verdicts)],
    }  # fmt: skip
    pairs = job("table3").documented_pair(row)
    return [[c["response"] for c in pair["candidates"]] for pair in pairs]


def test_the_chosen_side_alone_has_the_document(job):
    assert documented(job, "oc", "oo", "cc", "oc") == [["oo", "oc"]]
    assert documented(job, "o", "oo", "oc") == [["oo", "oc"]], "the most correct sentences"
    assert documented(job, "cc", "oc", "oc") == [], "no documented answer becomes the rejected one"
    assert documented(job, "oe", "oc", "cc") == [["oc", "cc"]]
    assert documented(job, "oo", "e") == []


def test_best_of_n_by_topic_leaves_out_what_has_no_score(job):
    def row(topic: str, *verdicts: str) -> dict:
        samples = [answer(n, of) | {"decoding": "sampled"} for n, of in enumerate(verdicts)]
        return {"topic": topic, "language": "en", "candidates": samples}

    rows = [row("a", "o", "c"), row("a", "e", "e"), row("b", "oc", "e"), row("c", "e", "e")]
    found = job("table6").by_topic(rows, [1, 2])
    assert found[1].parts == {"a": (0.5, 1), "b": (0.5, 1)}
    assert found[2].parts == {"a": (1, 1), "b": (0.5, 1)}


def test_every_table_has_the_papers_figures(job):
    from maskdpo_ray.experiments import published

    assert set(job("table4").PARTS) | {job("table4").WHOLE} == set(published.TABLE_4)
    assert set(job("table2").SYSTEMS) == set(published.TABLE_2)
    assert all(column in of for of in published.TABLE_1.values() for column in published.LARGE)
    assert {"before", "after"} == set(published.TABLE_6) == set(job("table6").SYSTEMS)


def test_table_5_stands_where_nothing_is_known_of_the_topics(job):
    claim, figures = job("table5").probe_claim([], "nothing is known of 9 topics")
    assert (claim["verdict"], claim["reason"]) == ("not testable", "nothing is known of 9 topics")
    assert figures == {}
