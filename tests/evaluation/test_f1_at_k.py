import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scores import row

from maskdpo_ray.evaluation.f1_at_k import f1_at_k, median_facts
from maskdpo_ray.evaluation.responses import read_responses
from maskdpo_ray.evaluation.sentence_score import sentence_score


def found(k: int, *answers: str) -> dict:
    rows = [row(str(number), answer) for number, answer in enumerate(answers)]
    return f1_at_k(read_responses(rows, "sampled"), k, resamples=200, seed=0)


@pytest.mark.parametrize(
    ("answer", "k", "precision", "recall", "f1"),
    [
        ("oooo", 4, 100, 100, 100),
        ("oooooooo", 4, 100, 100, 100),  # more than K gains nothing
        ("oo", 4, 100, 50, 100 * 2 * 0.5 / 1.5),
        ("ooc", 4, 200 / 3, 50, 100 * 2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)),
        ("oonnnn", 4, 100, 50, 100 * 2 * 0.5 / 1.5),  # what states nothing counts neither way
        ("ou", 1, 50, 100, 200 / 3),
        ("cu", 4, 0, 0, 0),
        ("nn", 4, None, 0, 0),
        ("", 4, None, 0, 0),
    ],
)
def test_an_answer_has_the_figures_of_the_paper(answer, k, precision, recall, f1):
    of = found(k, answer)
    assert of["precision"] == (None if precision is None else pytest.approx(precision))
    assert (of["k"], of["recall"], of["f1"]) == (k, pytest.approx(recall), pytest.approx(f1))


def test_answers_weigh_the_same_and_those_with_an_error_are_left_out():
    of = found(2, "oo", "", "oce", "oooooooc")
    assert of["recall"] == pytest.approx(200 / 3)
    assert of["precision"] == pytest.approx(100 * (1 + 7 / 8) / 2)
    for name in ("f1", "recall", "precision"):
        low, high = of[f"{name}_ci95"]
        assert low <= of[name] <= high


@given(st.text("oncu", max_size=8), st.integers(1, 9))
def test_what_is_said_rightly_in_addition_never_costs(answer, k):
    before, after = found(k, answer), found(k, answer + "o")
    assert after["f1"] >= before["f1"] and after["recall"] >= before["recall"]
    assert 0 <= before["f1"] <= 100


@pytest.mark.parametrize(
    ("answers", "median"),
    [(["oc", "ooo", "u"], 2), (["oc", "ooo"], 3), (["n", ""], 1), (["oe", "oooo"], 4), (["e"], 1)],
)
def test_k_of_a_base_is_the_median_of_the_facts_that_its_answers_state(answers, median):
    rows = [row(str(number), answer) for number, answer in enumerate(answers)]
    assert median_facts(read_responses(rows, "sampled")) == median


def test_verdicts_are_counted_apart_and_the_score_is_told_without_what_states_nothing():
    score = sentence_score([row("a", "oonc"), row("b", "nu"), row("c", "o")], "sampled")
    kinds = ("ok", "no_fact", "contradictory", "unverifiable", "correct", "incorrect")
    assert [score[kind] for kind in kinds] == [3, 2, 1, 1, 5, 2]
    assert (score["micro"], score["facts_micro"]) == pytest.approx((500 / 7, 60))
    assert (score["mean_correct"], score["mean_ok"]) == pytest.approx((5 / 3, 1))
    low, high = score["facts_ci95"]
    assert low < 60 < high
    assert score["f1_at_k"] is None
    silent = sentence_score([row("a", "nn"), row("b", "n")], "sampled", k=2)
    assert (silent["micro"], silent["facts_micro"], silent["facts_ci95"]) == (100, None, None)
    assert silent["f1_at_k"]["f1"] == 0


def test_a_topic_that_states_nothing_has_no_part_in_the_interval_without_such_sentences():
    rows = [row("a", "oc"), row("b", "oo"), *(row(str(n), "n") for n in range(9))]
    with np.errstate(all="raise"):
        low, high = sentence_score(rows, "sampled")["facts_ci95"]
    assert 50 <= low < high <= 100
