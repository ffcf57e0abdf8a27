"""A vote: who wins, by how much, and what becomes of those who fail."""

import json

import pytest
from members import ASKED
from test_cascade import FIRST, MARKS, SECOND, THREE, annotated, tree, verdicts
from test_own_annotators import row

from maskdpo_ray.annotation.annotators.vote import counted
from maskdpo_ray.config import AnnotationConfig, build_config
from maskdpo_ray.errors import RowRejected, UserError


@pytest.mark.parametrize(
    ("votes", "ballots", "verdict", "share"),
    [
        ("ok ok unverifiable", None, "ok", 2 / 3),
        ("ok nofact unverifiable", None, "ok", 2 / 3),
        ("nofact nofact ok", None, "nofact", 1),
        ("ok unverifiable contradictory", None, "contradictory", 2 / 3),
        ("ok unverifiable", None, "unverifiable", 0.5),
        ("ok unverifiable", [2, 1], "ok", 2 / 3),
        ("ok ok contradictory", [1, 1, 2], "contradictory", 0.5),
        ("error ok error", None, "ok", 1),
        ("error error", None, "error", None),
    ],
)
def test_who_wins(votes, ballots, verdict, share):
    found, confidence = counted(votes.split(), ballots)
    assert found == verdict
    assert confidence == (share if share is None else pytest.approx(share))


def vote(*members, **more):
    return AnnotationConfig.of(vote=list(members), **more)


def test_all_are_asked_and_each_is_heard():
    second = {"He lost.": "contradictory", "Ada won.": "raise"}
    third = {"He lost.": "unverifiable", "It rained.": "contradictory"}
    section = vote(FIRST, {**SECOND, "says": second}, {**FIRST, "name": "third", "says": third})
    [out] = annotated(section, row(THREE))
    [found] = verdicts(out)
    assert [verdict for verdict, _ in found] == ["ok", "contradictory", "ok"]
    assert [share for _, share in found] == pytest.approx([1, 2 / 3, 2 / 3])
    assert len(ASKED) == 9
    detail = json.loads(out["candidates"][0]["sentences"][0]["detail"])
    assert "decided_by" not in detail and detail["tokens"] == 4
    assert [each["by"] for each in detail["said"]] == [
        "members:Knows.0", "members:Unsure", "members:Knows.2",
    ]  # fmt: skip


def test_a_question_that_nobody_judges_is_rejected():
    refuse = {"Ada won.": "refuse"}
    both = vote({**FIRST, "says": refuse}, {**SECOND, "says": refuse})
    assert isinstance(annotated(both, row("Ada won."))[0], RowRejected)
    [out] = annotated(vote({**FIRST, "says": refuse}, SECOND), row("Ada won."))
    assert verdicts(out) == [[("ok", 1.0)]]


def test_a_vote_of_an_answer_and_of_sentences():
    marks = {**MARKS, "says": {"lost": "contradictory 0.8"}}
    [out] = annotated(vote(FIRST, marks, SECOND), row(THREE))
    assert [share for _, share in verdicts(out)[0]] == pytest.approx([1, 2 / 3, 1])
    [out] = annotated(vote(FIRST, marks), row(THREE))
    assert [said for said, _ in verdicts(out)[0]] == ["ok", "contradictory", "ok"]


def test_its_settings():
    config = build_config(tree(vote=[FIRST, SECOND], ballots=[1, 0.5], prune=True))
    assert config.annotation.annotator == "vote" and config.annotation.confident
    for ballots in ([1], [1, 0], [1, 1, 1]):
        with pytest.raises(UserError, match="ballots: a weight above 0 for each of vote, 2"):
            build_config(tree(vote=[FIRST, SECOND], ballots=ballots))
