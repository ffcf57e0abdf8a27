"""The score, from facts that people labelled to what FActScore published."""

from math import e, exp

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_facts import VERDICTS, answers_of

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.factscore.score import factscore, length_penalty, precision

LETTERS = {"s": "supported", "n": "not_supported", "e": "error"}


def answer(letters: str, abstained: bool = False, error: bool = False) -> dict:
    """An answer of one sentence, its verdicts given as letters."""
    facts = [{"verdict": LETTERS[letter]} for letter in letters]
    sentences = [] if abstained else [{"facts": facts, "error": error}]
    text = "" if abstained else "One sentence."
    return {
        "decoding": "greedy", "response": text, "abstained": abstained, "sentences": sentences
    }  # fmt: skip


UNFINISHED = {"decoding": "greedy", "response": "", "abstained": False, "sentences": []}


def row(topic: str, *answers: dict) -> dict:
    return {"topic": topic, "answers": list(answers)}


def labelled(rows: list[dict], model: str) -> list[dict]:
    """The answers of a model with the verdicts of people."""
    return [
        {
            "topic": each["topic"],
            "answers": [
                {
                    "decoding": "greedy",
                    "response": given["response"],
                    "abstained": given["abstained"],
                    "sentences": [
                        {
                            "error": False,
                            "facts": [{"verdict": VERDICTS[f["label"]]} for f in s["facts"]],
                        }
                        for s in given["sentences"]
                    ],
                }
                for given in answers_of(each, model)
            ],
        }
        for each in rows
    ]


@pytest.mark.parametrize(
    ("model", "percent", "answered", "without_facts"),
    [("ChatGPT", 58.3, 157, 0), ("InstructGPT", 42.8, 182, 1)],
)
def test_published_averages_come_out(biographies, model, percent, answered, without_facts):
    """Irrelevant facts count as not supported. Published: 58.3 and 42.5; without one answer that
    has no labelled fact the second is 42.8 from this file."""
    found = factscore(labelled(biographies, model))
    assert found["macro"] == pytest.approx(percent, abs=0.05)
    assert found["scored"] + found["without_facts"] == answered
    assert found["without_facts"] == without_facts
    assert found["respond_ratio"] == pytest.approx(100 * answered / 183)
    assert found["responses"] == 183 == found["abstained"] + answered
    low, high = found["ci95"]
    assert low < found["macro"] < high
    assert found["penalised"] == found["macro"], "all of these answers state more than ten facts"


def test_every_real_answer_has_the_share_of_its_supported_facts(biographies):
    scored = 0
    for model in ("ChatGPT", "InstructGPT", "PerplexityAI"):
        for each, found_by in zip(biographies, labelled(biographies, model), strict=True):
            labels = [
                fact["label"]
                for answered in answers_of(each, model)
                for sentence in answered["sentences"]
                for fact in sentence["facts"]
            ]
            if not labels:
                continue
            share = labels.count("S") / len(labels)
            short = exp(1 - 10 / len(labels)) if len(labels) <= 10 else 1
            found = factscore([found_by], resamples=100)
            assert found["macro"] == pytest.approx(100 * share)
            assert found["penalised"] == pytest.approx(100 * share * short)
            assert found["supported"] == labels.count("S")
            assert found["not_supported"] == len(labels) - labels.count("S")
            scored += 1
    assert scored == 157 + 181 + 158


@pytest.mark.parametrize(
    ("facts", "gamma", "penalty"),
    [(10, 10, 1), (11, 10, 1), (5, 10, 1 / e), (1, 10, exp(-9)), (4, 2, 1), (1, 1, 1)],
)
def test_length_penalty(facts, gamma, penalty):
    assert length_penalty(facts, gamma) == pytest.approx(penalty)


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_penalty_rises_with_facts_to_one(first, second):
    few, many = sorted((first, second))
    assert 0 < length_penalty(few, 10) <= length_penalty(many, 10) <= 1


def test_averages_are_over_answers_and_micro_over_facts():
    found = factscore([row("a", answer("s" * 9 + "n")), row("b", answer("n" * 30))])
    assert (found["macro"], found["micro"]) == pytest.approx((45, 100 * 9 / 40))
    assert found["penalised"] == pytest.approx(45)
    assert (found["mean_supported"], found["mean_not_supported"]) == (4.5, 15.5)
    assert (found["supported"], found["not_supported"], found["topics"]) == (9, 31, 2)


def test_what_has_no_score_is_counted_and_does_not_count():
    rows = [
        row("a", answer("sn"), answer("", abstained=True), answer("")),
        row("b", answer("sse"), answer("ss", error=True), UNFINISHED),
    ]
    found = factscore(rows)
    assert found["macro"] == 50
    names = ("abstained", "unfinished_reasoning", "without_facts", "errors")
    assert [found[key] for key in ("responses", "scored", *names)] == [6, 1, 1, 1, 1, 2]
    assert found["respond_ratio"] == pytest.approx(100 * 5 / 6)


def test_nothing_to_score_is_a_message_and_not_nan():
    abstained = [row(str(n), answer("", abstained=True)) for n in range(3)]
    with pytest.raises(UserError, match="no greedy answer has a FActScore: of 3 answers 3 abstain"):
        factscore(abstained)
    with pytest.raises(UserError, match="of 0 answers"):
        factscore([])
    with pytest.raises(UserError, match="1 could not be examined"):
        factscore([row("a", answer("e"))])


def test_decodings_are_kept_apart():
    sampled = {**answer("s"), "decoding": "sampled"}
    rows = [row("a", answer("n"), sampled)]
    assert factscore(rows)["macro"] == 0
    assert factscore(rows, "sampled")["macro"] == 100


@pytest.mark.parametrize("verdicts", [[], ["error"], ["supported", "ok"]])
def test_a_verdict_that_decides_nothing_has_no_default(verdicts):
    with pytest.raises(ValueError, match="no score of the verdicts"):
        precision(verdicts)
