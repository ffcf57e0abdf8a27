"""Intervals where the bootstrap has nothing to draw from."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scores import row

from maskdpo_ray.evaluation.best_of_n import best_of_n
from maskdpo_ray.evaluation.intervals import ratio_interval, wilson
from maskdpo_ray.evaluation.sentence_score import sentence_score
from maskdpo_ray.report.table import agreement_rows, best_of_n_rows, score_rows


def test_wilson_gives_the_textbook_figures():
    """Brown, Cai and DasGupta (2001); 81 of 263 is the example of Newcombe (1998)."""
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert wilson(1.0, 20) == pytest.approx((0.8389, 1), abs=1e-4)


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_holds_the_share_and_stays_within_bounds(right, trials):
    share = min(right, trials) / trials
    low, high = wilson(share, trials)
    assert 0 <= low <= share <= high <= 1 and low < high


@pytest.mark.parametrize("topics", [2, 10, 80])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_topics_that_all_say_the_same_leave_room_for_others(topics, share):
    ones = np.full(topics, 4.0)
    low, high = ratio_interval(share * ones, ones, 200, 0)
    assert (low, high) == pytest.approx(wilson(share, topics))
    assert low <= share <= high and high - low > 0.04


def test_one_topic_has_no_interval_however_many_answers():
    assert ratio_interval(np.array([3.0]), np.array([4.0]), 200, 0) is None


@pytest.mark.parametrize("wrong", [0.0, 0.01, 0.05, 0.3])
def test_near_the_edge_the_interval_covers_the_truth_as_often_as_it_may(wrong):
    """Sentences of a topic are all right or all wrong, the hardest case. With no wrong topic seen
    the bootstrap alone would cover nothing but 0."""
    random = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        bad = random.random(40) < wrong
        low, high = ratio_interval(5.0 * bad, np.full(40, 5.0), 400, trial)
        hits += low <= wrong <= high
    # Between the edges the percentile bootstrap of few events is known to fall short of 95 %.
    assert hits >= {0.0: 300, 0.01: 285, 0.05: 255, 0.3: 270}[wrong]


def test_scores_of_one_topic_and_of_no_wrong_sentence():
    one = sentence_score([row("a", "oc", "ooo"), row("a", "c")], "sampled", k=2)
    assert one["topics"] == 1
    keys = ("ci95", "macro_ci95", "facts_ci95")
    assert [one[key] for key in keys] == [None] * 3
    assert one["f1_at_k"]["f1_ci95"] is None
    right = sentence_score([row(str(n), "ooo") for n in range(20)], "sampled", k=2)
    for low, high in (*(right[key] for key in keys), right["f1_at_k"]["recall_ci95"]):
        assert high == 100 and low == pytest.approx(100 * wilson(1.0, 20)[0])


def test_what_has_no_interval_is_told_in_tables_and_in_strict_json():
    rows = [row("a", "oc", "ooo")]
    score, best = sentence_score(rows, "sampled", k=1), best_of_n(rows, [1, 2])
    assert best["ci95"] == {"1": None, "2": None}
    report = {"systems": {"base": {"sampled": score}}, "best_of_n_detail": {"base": best}}
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    header, cells = score_rows(report)
    assert [cells[n] for n, name in enumerate(header) if name == "95 %"] == ["n/a"] * 3
    assert best_of_n_rows(report)[1][3] == "n/a"
    figures = dict.fromkeys(("precision", "recall", "f1", "accuracy", "kappa"), [1.0, None, None])
    assert agreement_rows({"annotation": figures})[1] == ["annotation", *["1.000", "n/a"] * 5]
