from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.best_answers import best_answers
from maskdpo_ray.evaluation.best_of_n import (
    best_of_n,
    best_weights,
    choice_weights,
    expected_best,
)
from maskdpo_ray.evaluation.intervals import ratio_interval
from maskdpo_ray.evaluation.sentence_score import sentence_score

LETTERS = {"o": "ok", "n": "nofact", "c": "contradictory", "u": "unverifiable", "e": "error"}


def row(topic: str, *answers: str, decoding: str = "sampled") -> dict:
    """A question whose answers are given as one letter per sentence."""
    return {
        "topic": topic,
        "language": "en",
        "candidates": [
            {
                "decoding": decoding,
                "response": "She sang." * len(answer),
                "token_ids": [7] * 10,
                "sentences": [{"verdict": LETTERS[letter], "end": 9} for letter in answer],
            }
            for answer in answers
        ],
    }


def test_micro_counts_sentences_and_macro_counts_questions():
    score = sentence_score([row("a", "oooo"), row("b", "cu", "on")], "sampled")
    assert score["micro"] == pytest.approx(100 * 6 / 8)
    assert score["macro"] == pytest.approx((100 + 50) / 2)
    assert (score["correct"], score["incorrect"], score["no_fact"]) == (6, 2, 1)
    assert (score["responses"], score["questions"], score["topics"]) == (3, 2, 2)
    assert score["mean_sentences"] == pytest.approx(8 / 3)
    assert score["mean_correct"] == 2
    assert score["mean_tokens"] == 10


def test_the_macro_score_has_an_interval_of_its_own_over_topics():
    """Of one answer a question, macro is what best of one is; long answers weigh no more."""
    rows = [row(str(n // 2), "oooooooo" if n % 4 else "c") for n in range(40)]
    score = sentence_score(rows, "sampled")
    best = best_of_n(rows, [1])
    assert score["macro_ci95"] == pytest.approx(best["ci95"]["1"])
    low, high = score["macro_ci95"]
    assert low < score["macro"] == 75 < high
    assert score["ci95"][0] > high, "micro is another figure with another interval"


def test_an_answer_with_an_error_is_left_out_as_in_best_of_n_and_told():
    rows = [row("a", "ooe", "oc", "e", "")]
    score = sentence_score(rows, "sampled")
    assert score["micro"] == best_of_n(rows, [1])["micro"]["1"] == 50
    assert (score["correct"], score["incorrect"]) == (1, 1)
    assert (score["errors"], score["unscored"]) == (2, 3)


def test_decodings_are_kept_apart():
    rows = [row("a", "o", decoding="greedy"), row("a", "c")]
    assert sentence_score(rows, "greedy")["micro"] == 100
    assert sentence_score(rows, "sampled")["micro"] == 0


def test_nothing_to_score_is_a_message_and_not_nan():
    with pytest.raises(UserError, match="no greedy answer could be scored: 1 answers, 1"):
        sentence_score([row("a", "e", decoding="greedy")], "greedy")
    with pytest.raises(UserError, match="none of 1 sampled answers"):
        best_of_n([row("a", "oe")], [1])


def test_the_interval_covers_the_score_and_narrows_with_topics():
    def width(topics):
        rows = [row(str(n), "oc" if n % 2 else "oo") for n in range(topics)]
        score = sentence_score(rows, "sampled", seed=1)
        low, high = score["ci95"]
        assert low <= score["micro"] <= high
        return high - low

    assert width(200) < width(20) / 2


def test_the_interval_covers_the_truth_about_95_times_in_100():
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        correct = random.binomial(5, 0.6, size=60)
        low, high = ratio_interval(correct, np.full(60, 5), 400, trial)
        hits += low <= 0.6 <= high
    assert 180 <= hits <= 199


scores_and_n = st.lists(st.integers(0, 4), min_size=1, max_size=7).flatmap(
    lambda s: st.tuples(st.just(np.array(s) / 4), st.integers(1, len(s)))
)


@given(scores_and_n)
def test_the_closed_form_is_the_mean_over_all_subsets(drawn):
    scores, n = drawn
    subsets = list(combinations(range(len(scores)), n))
    best = [max(scores[list(subset)]) for subset in subsets]
    assert expected_best(scores, n) == pytest.approx(np.mean(best))
    # Ties are drawn evenly: every response of a subset's best score gets an equal share.
    chances = np.zeros(len(scores))
    for subset, top in zip(subsets, best, strict=True):
        winners = [i for i in subset if scores[i] == top]
        chances[winners] += 1 / len(winners) / len(subsets)
    by_score = {s: choice_weights(scores, n)[scores == s].sum() for s in set(scores)}
    assert by_score == pytest.approx({s: chances[scores == s].sum() for s in set(scores)})


@pytest.mark.parametrize("n", [1, 2, 16, 255, 256])
def test_weights_are_chances_up_to_256(n):
    weights = best_weights(256, n)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    if n == 1:
        assert weights == pytest.approx(np.full(256, 1 / 256))


def test_more_than_there_are_cannot_be_drawn():
    with pytest.raises(ValueError, match="cannot draw 3 of 2"):
        best_weights(2, 3)


@pytest.mark.parametrize("n", [1, 3, 16, 64, 128])
def test_the_closed_form_agrees_with_drawing(n):
    random = np.random.default_rng(n)
    scores = random.integers(0, 9, size=256) / 8
    drawn = random.random((4000, 256)).argsort(axis=1)[:, :n]
    best = scores[drawn].max(axis=1)
    error = best.std() / np.sqrt(len(best))
    assert expected_best(scores, n) == pytest.approx(best.mean(), abs=4 * error + 1e-9)


@pytest.mark.parametrize("n", [1, 2, 16, 100, 255, 256])
def test_weights_equal_the_binomials(n):
    exact = [float(Fraction(comb(i - 1, n - 1), comb(256, n))) for i in range(1, 257)]
    assert best_weights(256, n) == pytest.approx(exact, rel=1e-12, abs=1e-300)


def test_best_of_n_rises_from_the_mean_to_the_maximum():
    result = best_of_n([row("a", "oo", "oc", "cc"), row("b", "c", "o")], [1, 2, 3])
    assert result["macro"] == pytest.approx({"1": 50, "2": 100 * (5 / 6 + 1) / 2, "3": 100})
    assert result["short"] == {"1": 0, "2": 0, "3": 1}
    low, high = result["ci95"]["2"]
    assert low <= result["macro"]["2"] <= high


def test_an_n_that_no_question_has_samples_for_is_refused():
    with pytest.raises(UserError, match="best of 3: there are at most 2 sampled answers"):
        best_of_n([row("a", "oo", "oc"), row("b", "c")], [1, 3])


def test_a_question_without_a_usable_sample_is_left_out_and_counted():
    result = best_of_n([row("a", "o", "c"), row("b", "e", "")], [2])
    assert result["macro"]["2"] == 100
    assert (result["questions"], result["topics"], result["questions_left_out"]) == (1, 1, 1)


def test_micro_pools_the_sentences_of_the_chosen():
    result = best_of_n([row("a", "oooc", "c"), row("b", "c")], [1, 2])
    assert result["micro"]["2"] == pytest.approx(100 * 3 / 5)
    assert result["micro"]["1"] == pytest.approx(100 * 1.5 / (2.5 + 1))


def test_responses_with_errors_are_left_out():
    result = best_of_n([row("a", "oe", "c", "o")], [2])
    assert result["left_out"] == 1
    assert result["macro"]["2"] == 100


@given(st.permutations(range(6)), st.integers(1, 4))
def test_scores_do_not_depend_on_the_order_of_questions_or_answers(order, n):
    answers = [("oo", "oc", "c", "un"), ("o", "c", "cc", "ocn"), ("ooc", "e", "", "o")]
    rows = [row(str(t), *answers[t]) for t in range(3)]
    mixed = [row(str(t), *answers[t][::-1]) for t in order if t < 3]
    left, right = best_of_n(rows, [n]), best_of_n(mixed, [n])
    for figure in ("macro", "micro", "short"):
        assert left[figure] == pytest.approx(right[figure])
    for key in ("micro", "macro", "correct", "incorrect", "errors", "unscored"):
        first, second = (sentence_score(r, "sampled")[key] for r in (rows, mixed))
        assert first == pytest.approx(second)


def test_a_seed_gives_the_same_interval_again():
    values = np.random.default_rng(0).random(30)
    first, again, other = (ratio_interval(values, np.ones(30), 200, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_the_best_answers_are_written_out_as_conversations():
    rows = [row("a", "oc", "ooc", "oc", "oo"), row("b", "e", ""), row("c", "oc", "oocc")]
    for each in rows:
        each |= {"id": each["topic"], "question": "Who?"}
        for index, candidate in enumerate(each["candidates"]):
            candidate |= {"index": index, "response": f"answer {index}"}
    [a, c] = best_answers(rows, 3)
    assert (a["id"], a["index"], a["of"], a["sentences"]) == ("a", 1, 3, 3)
    assert a["score"] == pytest.approx(200 / 3)
    assert a["messages"] == [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "answer 1"},
    ]
    assert (c["index"], c["score"]) == (1, 50), "of equal scores, the one that says more"
    assert [each["index"] for each in best_answers(rows, 4)] == [3, 1]
    under_prompt = next(best_answers(rows, 3, "Be brief."))
    assert under_prompt["messages"][0] == {"role": "system", "content": "Be brief."}
    assert under_prompt["messages"][1:] == a["messages"]
