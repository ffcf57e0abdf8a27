"""Answers held against the base's: both orders, ties, lengths, and what cannot be compared."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.config import build_config
from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.evaluation.win_rate.judge import WORDING, DuelJudge
from maskdpo_ray.evaluation.win_rate.score import outcome, win_rate
from maskdpo_ray.records import DUEL_SCHEMA


class Prefers:
    """A judge that prefers by a rule of the two answers it is shown; keeps what it was asked."""

    def __init__(self, rule) -> None:
        self.rule, self.asked = rule, []

    async def reply(self, messages, choices):
        text = messages[0]["content"]
        self.asked.append(text)
        first, second = (text.split(f"Answer {name}:\n")[1].split("\n")[0] for name in "AB")
        said = self.rule(first, second)
        if isinstance(said, Exception):
            raise said
        assert said not in ("A", "B", "Tie") or said in choices
        return Reply(said, said != "cut")


def longer(first, second):
    return "A" if len(first) > len(second) else "B"


def row(name: str, answer: str | None, language="en", **more) -> dict:
    decoding = "sampled" if answer is None else "greedy"
    candidates = [{"decoding": decoding, "response": answer or "x"}]
    question = {"question": f"What is {name}?", "document": None, "language": language, **more}
    return {"id": name, "topic": name, **question, "candidates": candidates}


def duels(rule, answers: list[tuple[str | None, str | None]], **more) -> tuple[list, Prefers]:
    judge = Prefers(rule)
    base = [row(f"q{n}", of) for n, (_, of) in enumerate(answers)]
    rows = [row(f"q{n}", answer, **more) for n, (answer, _) in enumerate(answers)]
    return asyncio.run(DuelJudge(judge, WORDING.read(), base)(rows)), judge


def test_each_pair_is_shown_in_both_orders():
    [found], judge = duels(longer, [("much longer", "short")])
    assert (found["shown_first"], found["shown_second"]) == ("win", "win")
    assert json.loads(found["detail"]) == ["A", "B"]
    assert len(judge.asked) == 2 and all("What is q0?" in asked for asked in judge.asked)
    assert set(found) == set(DUEL_SCHEMA.names)


@pytest.mark.parametrize(
    ("rule", "told", "of_both"),
    [
        (longer, ("win", "win"), "win"),
        (lambda a, b: "A" if len(a) < len(b) else "B", ("loss", "loss"), "loss"),
        (lambda a, b: "A", ("win", "loss"), "tie"),  # goes by the order alone
        (lambda a, b: "B", ("loss", "win"), "tie"),
        (lambda a, b: "Tie", ("tie", "tie"), "tie"),
        (lambda a, b: "A" if len(a) > len(b) else "Tie", ("win", "tie"), "tie"),
        (lambda a, b: "cut", ("error", "error"), "error"),
        (lambda a, b: "neither", ("error", "error"), "error"),
        (lambda a, b: RequestRefused("too long"), ("error", "error"), "error"),
        (lambda a, b: "A" if len(a) > len(b) else "?", ("win", "error"), "error"),
    ],
)
def test_orders_that_disagree_are_a_tie(rule, told, of_both):
    [found], _ = duels(rule, [("much longer", "short")])
    assert (found["shown_first"], found["shown_second"]) == told
    assert outcome(found) == of_both


def test_equal_answers_are_a_tie_that_nobody_is_asked_about():
    [found], judge = duels(longer, [("same", "same")])
    assert outcome(found) == "tie" and judge.asked == []


def test_a_question_without_two_answers_leaves_with_a_reason():
    found, _ = duels(longer, [(None, "a"), ("a", None)])
    assert [each.reason for each in found] == ["nothing_to_compare"] * 2
    assert "of the system" in found[0].detail and "of the base" in found[1].detail
    [french], _ = duels(longer, [("a", "b")], language="fr")
    assert isinstance(french, RowRejected) and french.reason == "no_template"


def duel(topic: str, first: str, second: str, response="aaaa", base="bbbb") -> dict:
    told = {"shown_first": first, "shown_second": second}
    return {"id": topic, "topic": topic, "response": response, "base_response": base, **told}


def test_ties_count_as_halves_and_lengths_are_matched():
    rows = [
        duel("a", "win", "win", "a" * 90, "b" * 30),
        duel("b", "win", "win"),
        duel("c", "loss", "loss", "a" * 10, "b" * 12),
        duel("d", "win", "loss"),
        duel("e", "tie", "tie", "same", "same"),
        duel("f", "error", "win"),
    ]
    found = win_rate(rows, 1.25)
    assert found["win_rate"] == pytest.approx(100 * (2 + 2 / 2) / 5)
    counts = ("wins", "losses", "ties", "disagreements", "equal", "errors", "questions", "topics")
    assert [found[key] for key in counts] == [2, 1, 2, 1, 1, 1, 5, 5]
    # First: a, b, d of those shown first, c and d of those shown second.
    assert found["first_preferred"] == pytest.approx(100 * 5 / 8)
    assert found["similar"]["questions"] == 4
    assert found["similar"]["win_rate"] == pytest.approx(100 * (1 + 2 / 2) / 4)
    low, high = found["ci95"]
    assert low < 60 < high
    assert win_rate(rows, 3.0)["similar"]["win_rate"] == pytest.approx(found["win_rate"])
    alone = win_rate(rows[:1], 1.25)
    assert (alone["ci95"], alone["similar"]["win_rate"], alone["similar"]["ci95"]) == (None,) * 3
    with pytest.raises(UserError, match="failed on all of 1 questions"):
        win_rate(rows[5:], 1.25)


told = st.sampled_from(["win", "loss", "tie", "error"])


@given(st.lists(st.tuples(told, told), min_size=1, max_size=9))
def test_the_base_against_the_system_is_the_rest_of_a_hundred(seen):
    other = {"win": "loss", "loss": "win", "tie": "tie", "error": "error"}
    rows = [duel(str(n), *each) for n, each in enumerate(seen)]
    turned = [duel(str(n), other[two], other[one]) for n, (one, two) in enumerate(seen)]
    if all("error" in each for each in seen):
        return
    assert win_rate(rows, 2)["win_rate"] == pytest.approx(100 - win_rate(turned, 2)["win_rate"])


# -- settings -----------------------------------------------------------------------------------

JUDGE = {"endpoint": {"base_url": "http://h/v1", "model": "m", "constrain": "none"}}


def tree(win_rate, **sections) -> dict:
    return {
        "run_dir": "x",
        "model": {"path": "p"},
        "data": {"train": "q", "test": "t"},
        "annotation": {"annotator": "judge", **JUDGE},
        "evaluation": {"win_rate": win_rate, "judges": {}},
    } | sections


@pytest.mark.parametrize(
    ("win_rate", "sections", "words"),
    [
        ({}, {}, "model or endpoint is missing"),
        ({**JUDGE, "length_ratio": 1}, {}, "greater than 1"),
        ({"endpoint": {"base_url": "http://h/v1", "model": "m"}}, {}, "constrain is missing"),
        ({**JUDGE, "dtype": "float32"}, {}, "the server of endpoint decides dtype"),
        (JUDGE, {"systems": {}}, "nothing to hold against the base"),
        ({"model": "m", "engine": {"tensor_parallel_size": 2}}, {}, "resources.win_rate.gpus=2"),
    ],
)
def test_what_cannot_be_compared_is_refused(win_rate, sections, words):
    with pytest.raises(UserError) as caught:
        build_config(tree(win_rate, **sections))
    assert words in str(caught.value)


def test_there_is_a_base():
    given = {"models": {"a": {"responses": "a.jsonl"}, "b": {"responses": "b.jsonl"}}}
    given |= {"win_rate": JUDGE, "judges": {}}
    sections = {"model": {}, "systems": {}, "data": {"test": "t"}, "evaluation": given}
    with pytest.raises(UserError, match="compares with the base, and there is none"):
        build_config(tree(None, **sections))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": "{question} {first}"}, r"lacks \{second\}"),
        ({"prompt": "{question} {first} {second} {topic}"}, r"has \{topic\}, which nothing fills"),
        ({"choices": {"first": "A", "second": "B"}}, "a word each for first, second, tie"),
        ({"choices": {"first": "A", "second": "A", "tie": "T"}}, "share a word"),
        ({"choices": {"first": True, "second": "A", "tie": "T"}}, "quote yes"),
    ],
)
def test_a_wrong_wording_is_named(tmp_path, changed, words):
    wording = {"prompt": "{question} {first} {second}"}
    wording |= {"choices": {"first": "A", "second": "B", "tie": "T"}}
    path = tmp_path / "w.yaml"
    path.write_text(json.dumps({"en": wording}))
    assert WORDING.read(str(path)).languages["en"] == wording
    path.write_text(json.dumps({"en": wording | changed}))
    with pytest.raises(UserError, match=words):
        WORDING.read(str(path))


def test_our_wording_has_both_languages_and_asks_nothing_for_a_document():
    wording = WORDING.read().languages
    assert set(wording) == {"en", "zh"}
    assert not any("{document}" in of["prompt"] for of in wording.values())
