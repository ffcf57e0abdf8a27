"""What the jobs of the tables decide by themselves."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.compare import Outcome
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


TABLE_1 = {"test": [], "large": None, "facttune_samples": 10}


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(str(JOBS / "configs" / "paper.yaml"), str(tmp_path), [0])


@pytest.mark.parametrize(
    ("table", "given", "words"),
    [
        ("table1", TABLE_1 | {"test": ["bio=f"]}, "the world provides the questions"),
        ("table1", TABLE_1 | {"facttune_samples": 1}, "--facttune-samples 1: a pair needs 2"),
        ("table1", TABLE_1 | {"large": "70b"}, "--large 70b: evaluation.models has no model"),
        ("table5", {"embedding": ["policy=x"], "pooling": []}, "needs a name of its own"),
        ("table5", {"embedding": [], "pooling": ["other=last"]}, "NAME is one of policy, and"),
        ("table5", {"embedding": [], "pooling": ["policy=max"]}, "one of mean, mean_all, last"),
        ("table6", {"samples": 1}, "--samples 1: best of N needs at least 2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(job, lab, table, given, words):
    with pytest.raises(UserError, match=words):
        job(table).EXPERIMENT.check(lab, **given)


def real_lab(folder: Path, row: dict, *settings: str) -> Lab:
    """On a model and questions of one's own."""
    (folder / "train.jsonl").write_text(json.dumps(row))
    config = str(JOBS / "configs" / "llama3.1-8b-anah.yaml")
    return Lab(config, str(folder), [0], [f"data.train={folder}/train.jsonl", *settings])


def test_a_set_of_questions_that_is_not_there_is_told_beforehand(job, tmp_path):
    real = real_lab(tmp_path, {"question": "Who?"})
    with pytest.raises(UserError, match="--test bio: .*nowhere.jsonl"):
        job("table1").EXPERIMENT.check(
            real, **TABLE_1 | {"test": [f"bio={tmp_path}/nowhere.jsonl"]}
        )


def test_the_70bs_figures_stand_beside_the_model_that_is_named(job):
    outcome = Outcome({"a": (1.0, 2.0), "b": (1.0, 3.0)}, 2.0, 1.0)
    columns = [("sentence score", "test questions"), ("FActScore", "biographies")]
    names = ("base", "gpt", "facttune", "facttune-matched", "mask_dpo")
    found = {name: {column: [outcome] for column in columns} for name in names}

    def claims(large: str | None) -> dict[str, str]:
        result = job("table1").result(found, world=False, large=large)
        return {
            each["claim"]: each["paper"] for each in result.claims if "than gpt" in each["claim"]
        }

    sentences = "Mask-DPO has a higher sentence score than gpt on test questions"
    facts = "Mask-DPO has a higher FActScore than gpt on biographies"
    assert claims(None) == {sentences: "not told", facts: "not told"}
    assert claims("gpt") == {sentences: "77.53 against 53.44"}


def test_claims_of_table_1_are_of_the_first_and_the_last_score_and_of_each_judge(job):
    outcome = Outcome({"a": (1.0, 2.0), "b": (1.0, 3.0)}, 2.0, 1.0)
    by = "sentence score by qwen"
    columns = [(of, asked) for asked in ("test questions", "bio") for of in ("sentence score", by)]
    found = {name: {column: [outcome] for column in columns} for name in ("base", "mask_dpo")}
    result = job("table1").result(found, world=False, judges=["qwen"])
    assert [each["claim"] for each in result.claims] == [
        f"Mask-DPO has a higher {of} than base on {asked}" for of, asked in columns[:3]
    ]
    alone = {name: {columns[0]: [outcome]} for name in found}
    assert len(job("table1").result(alone, world=False).claims) == 1


def test_what_a_judge_finds_stands_beside_the_first_examiners_score(job):
    """The judge likes the mask less than the examiner does that made the pairs."""

    def outcome(stages, system, judge=None):
        correct = {"base": 1.0, "dpo": 2.0, "mask_dpo": 1.5 if judge else 3.0}[system]
        return Outcome({"a": (correct, 4.0), "b": (correct, 5.0)}, 2.0, 1.0)

    lab = SimpleNamespace(
        seeds=[0], judges=["qwen"], tells_facts=False, outcome=outcome, run=lambda seed: None
    )
    result = job("table2").experiment(lab)
    header, base, *_ = result.rows
    assert header[-3:] == ["correct", "sentence score by qwen", "paper: sentence score"]
    assert base[-2].startswith("22.2") and base[-1] == "49.19"
    verdicts = {each["claim"]: (each["verdict"], each["paper"]) for each in result.claims}
    of = "from the same pairs, the mask raises the sentence score"
    assert verdicts == {
        of: ("reproduced", "77.53 against 68.44"),
        f"{of} by qwen": ("not reproduced", "not told"),
    }


def test_without_the_closed_world_another_model_must_be_named(job, tmp_path):
    real = real_lab(tmp_path, {"question": "Who?", "topic": "A"})
    check = job("table3").EXPERIMENT.check
    with pytest.raises(UserError, match="table 3 needs --other"):
        check(real, other=None)
    with pytest.raises(UserError, match="no training question has a document"):
        check(real, other="org/model")
    check(real_lab(tmp_path, {"question": "Who?", "topic": "A", "document": "A."}), other="org/m")
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
    usable = job("table6").usable_samples(rows)
    found = job("table6").by_topic(usable, [1, 2])
    assert found[1].parts == {"a": (0.5, 1), "b": (0.5, 1)}
    assert found[2].parts == {"a": (1, 1), "b": (0.5, 1)}
    assert job("table6").short_of(usable, [1, 2]) == {1: 2, 2: 3}


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
