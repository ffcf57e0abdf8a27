"""Scores over seeds, differences and claims."""

import json

import numpy as np
import pytest

from maskdpo_ray.evaluation.factscore.score import factscore
from maskdpo_ray.experiments.compare import (
    Counts,
    Outcome,
    claim,
    difference,
    fact_outcome,
    fact_parts,
    gap_difference,
    gap_over_noise,
    not_testable,
    outcome,
    score,
    verdict_counts,
)
from maskdpo_ray.experiments.results import with_interval


def row(topic: str, *answers: str) -> dict:
    """One greedy answer each; a letter is a sentence: o ok, c contradictory, n no fact, e error."""
    verdicts = {"o": "ok", "c": "contradictory", "n": "nofact", "e": "error"}
    candidates = [
        {
            "response": "x" * len(answer),
            "token_ids": [1],
            "decoding": "greedy",
            "sentences": [
                {"start": n, "end": n + 1, "verdict": verdicts[letter]}
                for n, letter in enumerate(answer)
            ],
        }
        for answer in answers
    ]
    return {"topic": topic, "language": "en", "candidates": candidates}


def test_an_outcome_counts_sentences_by_topic():
    found = outcome([row("a", "oon"), row("a", "cc"), row("b", "oc"), row("c", "oe")])
    assert found.parts == {"a": (3, 5), "b": (1, 2)}
    assert found.score == pytest.approx(100 * 4 / 7)
    assert (found.sentences, found.correct) == (7 / 3, 4 / 3)
    assert found.counts == Counts(answers=4, scored=3, abstained=0)


def test_facts_are_averaged_over_the_answers_that_state_any():
    found = outcome([row("a", "onn", "ooc"), row("b", "nn"), row("c", "c")], fact_parts)
    assert found.parts == {"a": (1 + 2 / 3, 2), "c": (0, 1)}
    assert found.score == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert (found.counts.answers, found.counts.scored) == (4, 3)


def test_factscore_of_what_was_examined_is_that_of_the_report():
    """Answers that abstain, state nothing or could not be examined have no score."""

    def answer(letters: str, abstained: bool = False, decoding: str = "greedy") -> dict:
        verdicts = {"s": "supported", "n": "not_supported", "e": "error"}
        facts = [{"verdict": verdicts[letter]} for letter in letters]
        sentences = [] if abstained else [{"facts": facts, "error": False}]
        told = {"abstained": abstained, "sentences": sentences}
        return {"response": "An answer.", "decoding": decoding, **told}

    answers = [
        ("a", answer("ssn"), answer("n", decoding="sampled")),
        ("a", answer("s")),
        ("b", answer(""), answer("se"), answer("", abstained=True)),
        ("c", answer("nn")),
    ]
    rows = [
        {"id": str(number), "topic": topic, "answers": of}
        for number, (topic, *of) in enumerate(answers)
    ]
    found = fact_outcome(rows, {"unknown_topic": 2})
    assert found.parts == {"a": (2 / 3 + 1, 2), "c": (0, 1)}
    assert found.score == pytest.approx(factscore(rows)["macro"])
    assert found.sentences == 1
    assert found.counts == Counts(6, scored=3, abstained=1, rejected={"unknown_topic": 2})


def made(world: dict[str, float], shift: float = 0.0) -> Outcome:
    return Outcome({topic: (s + shift, 1.0) for topic, s in world.items()}, 1.0, 0.5)


def mean(world: dict[str, float]) -> float:
    return 100 * float(np.mean(list(world.values())))


@pytest.fixture
def worlds() -> list[dict[str, float]]:
    """Shares of topics of three worlds, each with topics of its own."""
    random = np.random.default_rng(0)
    return [
        {f"{name}{n}": share for n, share in enumerate(random.uniform(0, 0.5, 50))}
        for name in "abc"
    ]


def test_the_interval_is_that_of_independent_topics(worlds):
    found = score([made(world) for world in worlds])
    assert found["by_seed"] == pytest.approx(list(map(mean, worlds)))
    low, high = found["ci95"]
    variance = sum(np.var(list(world.values())) / 50 for world in worlds) / 9
    assert (high - low) / 2 == pytest.approx(100 * 1.96 * variance**0.5, rel=0.08)


def test_seeds_that_share_their_questions_are_not_three_samples_of_them(worlds):
    """Three equal seeds tell no more about topics than one."""
    one, three = score([made(worlds[0])]), score([made(worlds[0])] * 3)
    assert three["ci95"] == pytest.approx(one["ci95"])


def test_scores_and_interval_are_of_the_topics_that_both_have(worlds):
    more = made({**worlds[0], "hard": 0.0})
    found = difference([made(worlds[0], 0.1)], [more])
    assert (found["points"], *found["ci95"]) == pytest.approx((10, 10, 10))
    assert (found["topics"], found["topics_left_out"]) == (50, 1)
    apart = difference([made(worlds[0])], [made(worlds[1])])
    assert apart["points"] is None and apart["topics_left_out"] == 100
    assert "no topic has a score from all" in apart["not_scored"]


def test_where_nothing_is_scored_there_is_a_reason_and_no_figure(worlds):
    found = outcome([row("a", "oe"), row("b", "e")], rejected={"document_missing": 7})
    reason = (
        "no greedy answer has a score: 2 answers, of which 0 abstain; "
        "7 questions rejected (document_missing)"
    )
    assert (found.parts, found.not_scored) == ({}, reason)
    assert "no greedy answer has a FActScore: 0 answers" in fact_outcome([]).not_scored
    empty = score([made(worlds[0]), found])
    assert (empty["score"], empty["ci95"], empty["not_scored"]) == (None, None, reason)
    of = claim(2, "more", difference([made(worlds[0])] * 2, [made(worlds[0]), found]), "1")
    assert (of["verdict"], of["ours"], of["reason"]) == ("not testable", None, reason)


def test_a_score_tells_what_it_leaves_out():
    """Of all seeds: one answer of four abstains, one could not be judged."""
    abstaining = row("a", "c")
    abstaining["candidates"][0]["response"] = "Sorry."
    abstaining["candidates"][0]["sentences"][0]["end"] = 6
    seeds = [
        outcome([abstaining, row("b", "oe")], rejected={"unknown_topic": 2}),
        outcome([row("a", "o"), row("b", "c")], rejected={"unknown_topic": 1, "no_template": 1}),
    ]
    found = score(seeds)
    assert (found["answers"], found["scored"], found["abstained"]) == (4, 3, 1)
    assert (found["respond_ratio"], found["unknown_topics"]) == (75, 3)
    assert found["rejected"] == {"unknown_topic": 3, "no_template": 1}
    assert found["topics"] == 2
    assert json.loads(json.dumps(found)) == found


def test_topics_are_drawn_for_both_systems_together(worlds):
    """One is ahead by the same in every topic: their difference has no spread."""
    found = difference([made(w, 0.1) for w in worlds], [made(w) for w in worlds])
    assert found["points"] == pytest.approx(10)
    assert found["ci95"] == pytest.approx([10, 10])
    gap = [(made(w, 0.3), made(w)) for w in worlds]
    floor = [(made(w, 0.1), made(w)) for w in worlds]
    assert gap_difference(gap, floor)["points"] == pytest.approx(20)


def test_topics_that_all_say_the_same_leave_room_for_others():
    """No wrong answer of twenty, or all of them: neither is a score without doubt."""
    right, wrong = ({f"t{n}": share for n in range(20)} for share in (1.0, 0.0))
    found = score([made(right)])
    assert found["ci95"] == pytest.approx([83.89, 100], abs=0.01)
    assert score([made(right)] * 3)["ci95"] == pytest.approx(found["ci95"])
    ahead = difference([made(right)] * 3, [made(wrong)] * 3)
    assert ahead["ci95"] == pytest.approx([100 - 2**0.5 * 16.11, 100 + 2**0.5 * 16.11], abs=0.02)
    assert claim(2, "more", ahead, "1")["verdict"] == "reproduced"
    level = difference([made(right)] * 3, [made(right)] * 3)
    assert level["ci95"][0] < 0 < level["ci95"][1]


def test_one_topic_tells_nothing_about_others():
    one = [made({"t": 0.5})] * 3
    found = score(one)
    assert (found["score"], found["ci95"], found["topics"]) == (50, None, 1)
    assert with_interval(found) == ["50.0", "n/a", "50.0, 50.0, 50.0"]
    of = claim(2, "more", difference(one, one), "1")
    assert (of["verdict"], of["reason"]) == ("not testable", "one topic tells nothing about others")


def test_noise_lowers_a_gap_whichever_side_of_it_is_ahead(worlds):
    gap = [(made(w, 0.3), made(w)) for w in worlds]
    noise = [(made(w, by), made(w)) for w, by in zip(worlds, (0.1, -0.1, 0.1), strict=True)]
    assert gap_difference(gap, noise)["by_seed"] == pytest.approx([20, 40, 20])
    assert gap_over_noise(gap, noise)["by_seed"] == pytest.approx([20, 20, 20])


def test_a_claim_stands_where_the_whole_interval_does(worlds):
    ahead = difference([made(w, 0.1) for w in worlds], [made(w) for w in worlds])
    assert claim(2, "more", ahead, "1 against 0")["verdict"] == "reproduced"
    turned = [dict(zip(w, reversed(w.values()), strict=True)) for w in worlds]
    level = difference([made(w) for w in worlds], [made(w) for w in turned])
    assert level["ci95"][0] < 0 < level["ci95"][1]
    assert claim(2, "more", level, "1 against 0")["verdict"] == "not reproduced"
    behind = difference([made(w) for w in worlds], [made(w, 0.1) for w in worlds])
    assert claim(2, "more", behind, "1 against 0")["verdict"] == "not reproduced"


def test_one_seed_against_the_others_leaves_a_claim_open(worlds):
    """The mean is far above zero, and so is its interval over topics."""
    ahead = [made(w, 0.1) for w in worlds[:2]] + [made(worlds[2], -0.02)]
    found = difference(ahead, [made(w) for w in worlds])
    assert found["ci95"][0] > 5
    assert claim(2, "more", found, "1 against 0")["verdict"] == "not reproduced"


def test_fewer_than_three_trainings_give_no_verdict(worlds):
    """However far ahead: how far apart two trainings end is not seen. The figures stay."""
    for seeds in (1, 2):
        ahead = [made(world, 0.1) for world in worlds[:seeds]]
        found = difference(ahead, [made(world) for world in worlds[:seeds]])
        made_of = claim(2, "more", found, "1 against 0")
        assert (made_of["verdict"], made_of["ours"]) == ("not testable", 10)
        assert f"{seeds} of at least 3 seeds" in made_of["reason"]
        of_one_policy = claim(2, "more", found, "1 against 0", trained=False)
        assert of_one_policy["verdict"] == "reproduced"


def test_a_claim_says_on_how_many_topics_it_rests(worlds):
    ahead = [made(world, 0.1) for world in worlds]
    behind = [made(dict(list(world.items())[:40])) for world in worlds]
    found = claim(2, "more", difference(ahead, behind), "1 against 0")
    assert (found["topics"], found["topics_left_out"]) == (120, 30)


def test_claims_beside_a_published_figure_are_counted_apart(worlds):
    ahead = difference([made(w, 0.1) for w in worlds], [made(w) for w in worlds])
    claims = [
        claim(1, "a", ahead, "77.53 against 49.19"),
        claim(1, "b", ahead, "not told"),
        claim(5, "c", ahead, "a hypothesis"),
        not_testable(1, "d", "there is no large one", "77.53 against 53.44"),
    ]
    assert verdict_counts(claims) == (
        "2 claims with a published figure: 1 reproduced, 1 not testable; "
        "2 without one: 2 reproduced"
    )
