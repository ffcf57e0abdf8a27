"""Pruned annotation against full annotation: the same pair, or the same reason for none."""

import asyncio
import copy
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selections import SELECTIONS, best_and_worst

from maskdpo_ray.annotation.annotate import Annotate, all_sentences
from maskdpo_ray.annotation.annotators.labels import Labels
from maskdpo_ray.annotation.calls import count_calls
from maskdpo_ray.annotation.pruning import next_sentences
from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.preference.select import NoPair, PrunedTooFar, select_pairs, why_left_out

PAPER = PreferenceConfig()
LETTERS = {"o": "ok", "n": "nofact", "c": "contradictory", "u": "unverifiable", "e": "error"}


class Key:
    """Knows the verdict on every sentence; remembers what it was asked."""

    def __init__(self, verdicts):
        self.verdicts = verdicts
        self.asked = []

    async def verdict(self, question, sentence):
        self.asked.append(sentence)
        await asyncio.sleep(0)
        return self.verdicts[sentence], "detail"


def split(text, language):
    """Sentences of this file: five characters each, as in ``s001 ``."""
    return [(start, start + 5) for start in range(0, len(text), 5)]


def question(*answers):
    """A question whose answers are lists of sentence numbers; None is one without tokens."""
    candidates = []
    for index, numbers in enumerate(answers):
        text = "".join(f"s{n:03d} " for n in numbers or ())
        ids = [] if numbers is None else [1]
        given = {"index": index, "response": text, "token_ids": ids, "decoding": "input"}
        candidates.append({**given, "sentences": []})
    row = {"id": "q", "question": "?", "document": None, "language": "en"}
    return {**row, "candidates": candidates}


def outcome(row, settings=PAPER):
    """The pair with the verdicts on both sides, or why there is none."""
    try:
        pairs = [pair[:2] for pair in select_pairs(row["candidates"], settings)]
    except NoPair as reason:
        return reason.reason, reason.detail
    return *pairs, *(row["candidates"][n]["sentences"] for pair in pairs for n in pair)


def both(row, verdicts, split=split, settings=PAPER):
    """The row annotated in full and pruned, and what was asked for each."""
    rows, asked = [], []
    for prune in (None, settings):
        key = Key(verdicts)
        [out] = asyncio.run(Annotate(key, split, prune=prune)([copy.deepcopy(row)]))
        assert len(set(key.asked)) == len(key.asked)
        rows.append(out)
        asked.append(key.asked)
    return rows, asked


def check(row, verdicts, split=split, settings=PAPER):
    (full, pruned), (everything, asked) = both(row, verdicts, split, settings)
    assert outcome(pruned, settings) == outcome(full, settings)
    assert set(asked) <= set(everything)
    for before, after in zip(full["candidates"], pruned["candidates"], strict=True):
        for known, left in zip(before["sentences"], after["sentences"], strict=True):
            assert left == known or left["verdict"] == "skipped"
    counts = count_calls([pruned])
    assert (counts["asked"], counts["distinct"]) == (len(asked), len(everything))
    return len(everything), len(asked)


@st.composite
def tables(draw):
    """Answers over a pool of sentences, small where they are to share many, and the verdicts."""
    pool = draw(st.integers(1, 40))
    letters = draw(st.sampled_from(["o", "u", "ou", "ouuu", "ooou", "onuc", "oue", "onucee"]))
    verdicts = draw(st.lists(st.sampled_from(letters), min_size=pool, max_size=pool))
    answer = st.lists(st.integers(0, pool - 1), max_size=7)
    answers = draw(st.lists(st.none() | answer | answer, min_size=2, max_size=12))
    copies = draw(st.lists(st.sampled_from(answers), max_size=3))  # identical texts
    return answers + copies, {f"s{n:03d}": LETTERS[x] for n, x in enumerate(verdicts)}


@settings(max_examples=500)
@given(tables())
def test_pair_or_reason_are_those_of_full_annotation(table):
    answers, verdicts = table
    check(question(*answers), verdicts)


@settings(max_examples=700)
@given(tables(), SELECTIONS)
def test_the_same_under_every_selection(table, given):
    answers, verdicts = table
    check(question(*answers), verdicts, settings=PreferenceConfig(**given))


@pytest.mark.parametrize("errors", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("correct", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("select", ["precision", "f1@k", "net"])
def test_the_same_at_the_papers_size(errors, correct, select):
    """32 answers of their own sentences: small ones hardly ever leave room to prune."""
    settings = PreferenceConfig(select=select, no_fact="ignore", unverifiable="mask")
    chance = random.Random(f"{errors} {correct}")
    everything = asked = 0
    for _ in range(10):
        answers, verdicts = [], {}
        for _ in range(32):
            answers.append(range(len(verdicts), len(verdicts) + chance.randint(0, 7)))
            for n in answers[-1]:
                right, wrong = chance.choice("ooon"), chance.choice("cccu")
                letter = right if chance.random() < correct else wrong
                verdicts[f"s{n:03d}"] = LETTERS["e" if chance.random() < errors else letter]
        sizes = check(question(*answers), verdicts, settings=settings)
        everything, asked = everything + sizes[0], asked + sizes[1]
    assert asked < 0.85 * everything


def test_at_the_papers_numbers_a_third_is_saved():
    """32 answers of five sentences, half of them correct; benchmarks/annotation.py has more."""
    chance = random.Random(0)
    everything = asked = 0
    for _ in range(20):
        answers = [range(5 * n, 5 * n + 5) for n in range(32)]
        verdicts = {f"s{n:03d}": LETTERS[chance.choice("ou")] for n in range(160)}
        sizes = check(question(*answers), verdicts)
        everything, asked = everything + sizes[0], asked + sizes[1]
    assert asked < 0.67 * everything


def test_several_pairs_ask_more_and_still_leave_answers():
    chance = random.Random(0)
    asked = []
    for _ in range(5):
        answers = [range(5 * n, 5 * n + 5) for n in range(32)]
        verdicts = {f"s{n:03d}": LETTERS[chance.choice("ou")] for n in range(160)}
        for pairs in (1, 4):
            chosen = PreferenceConfig(pairs_per_question=pairs)
            asked.append(check(question(*answers), verdicts, settings=chosen)[1])
    one, four = asked[::2], asked[1::2]
    assert all(few < more < 160 for few, more in zip(one, four, strict=True))


def test_answers_that_read_the_same_count_as_one_of_several():
    """The two best read the same, so the second pair needs the third best."""
    verdicts = dict.fromkeys(["s000", "s001", "s005"], "ok")
    verdicts |= dict.fromkeys(["s002", "s003", "s004"], "unverifiable")
    row = question([0], [0], [1, 2, 5], [3], [4])
    chosen = PreferenceConfig(pairs_per_question=2)
    check(row, verdicts, settings=chosen)
    (_, pruned), _ = both(row, verdicts, settings=chosen)
    assert outcome(pruned, chosen)[:2] == ((0, 3), (2, 4))


def test_answers_that_are_left_out_beforehand_are_not_asked_about():
    row = question([0, 0, 0], [1, 2], [3, 4])
    verdicts = {"s000": "ok", "s001": "ok", "s002": "ok", "s003": "unverifiable", "s004": "ok"}
    chosen = PreferenceConfig(max_repetition=0.5)
    (_, pruned), (_, asked) = both(row, verdicts, settings=chosen)
    assert sorted(asked) == ["s001", "s002", "s003", "s004"]
    assert outcome(pruned, chosen)[0] == (1, 2)
    check(row, verdicts, settings=chosen)


def test_calls_are_counted():
    verdicts = {"s000": "ok", "s001": "unverifiable", "s002": "ok", "s003": "unverifiable"}
    row = question([0, 0], [1, 1], [2, 3], [2, 3])
    row["candidates"][3]["response"] += "     "
    (full, pruned), (_, asked) = both(row, verdicts)
    sizes = {"sentences": 9, "distinct": 4}
    assert count_calls([full]) == {**sizes, "asked": 4, "pruned": 0}
    assert count_calls([pruned]) == {**sizes, "asked": len(asked), "pruned": 4 - len(asked)}
    assert count_calls([full, full])["distinct"] == 8


def test_units_without_facts_and_answers_in_another_language_are_counted():
    response = "## 生平\n她生于伦敦。\n```\nx = 1. Y\n```\n"
    spans = split_sentences(response, "en")
    sentences = [
        {"start": start, "end": end, "verdict": verdict, "detail": ""}
        for (start, end), verdict in zip(spans, ("nofact", "ok", "nofact"), strict=True)
    ]
    row = {"language": "en", "candidates": [{"response": response, "sentences": sentences}]}
    counts = {"sentences": 3, "distinct": 2, "asked": 2, "pruned": 0}
    more = {"other_language": 1, "no_fact_code": 1, "no_fact_heading": 1}
    assert count_calls([row]) == {**counts, **more}
    assert "other_language" not in count_calls([{**row, "language": "zh"}])


def test_what_a_best_and_a_worst_answer_leave_open_is_not_asked():
    verdicts = {f"s{n:03d}": "ok" if n in (0, 1, 4, 6) else "unverifiable" for n in range(9)}
    row = question([0, 1], [2, 3], [4, 5], [6, 7, 8])
    (_, pruned), (everything, asked) = both(row, verdicts)
    assert outcome(pruned)[0] == (0, 1)
    assert len(asked) < len(everything) == 9
    assert "skipped" in {s["verdict"] for c in pruned["candidates"] for s in c["sentences"]}


def test_after_an_error_the_rest_of_an_answer_is_not_asked():
    verdicts = {"s000": "error", "s001": "ok", "s002": "ok", "s003": "unverifiable"}
    (_, pruned), (_, asked) = both(question([0, 1], [2], [3]), verdicts)
    assert "s001" not in asked
    assert outcome(pruned)[0] == (1, 2)
    assert why_left_out(pruned["candidates"][0], PAPER) == "error"


def test_an_answer_that_others_were_measured_by_may_fail():
    """While its last sentence is open the first answer bounds nobody: that one is an error."""
    verdicts = {"s000": "ok", "s001": "error", "s002": "ok", "s003": "unverifiable"}
    check(question([0, 0, 0, 1], [2, 2, 3], [2, 3], [3]), verdicts)


def test_sentences_that_more_answers_share_are_asked_first():
    candidates = [["a", "b"], ["b", "c"], ["d", "b"]]
    assert next_sentences(candidates, {}) == ["b"]


def test_nothing_is_asked_twice_or_of_nobody():
    assert next_sentences([], {}) == next_sentences([[], []], {}) == []
    assert next_sentences([["a"], ["a"]], {"a": "ok"}) == []
    assert all_sentences([["a", "b"], ["b", "c"]], {"a": "ok"}) == ["b", "c"]


def test_a_rejected_question_is_rejected_in_either_way():
    class Refuses:
        async def verdict(self, question, sentence):
            raise RowRejected("document_missing", "none")

    for prune in (None, PAPER):
        [out] = asyncio.run(Annotate(Refuses(), split, prune=prune)([question([0], [])]))
        assert isinstance(out, RowRejected) and out.reason == "document_missing"


def test_a_candidate_that_was_left_too_early_is_refused():
    row = question([0], [1], [0, 1, 2])
    verdicts = {"s000": "ok", "s001": "unverifiable", "s002": "ok"}
    (full, _), _ = both(row, verdicts)
    for sentence in full["candidates"][2]["sentences"][1:]:
        sentence["verdict"] = "skipped"
    with pytest.raises(PrunedTooFar, match="candidate 2 of 3 has 2 skipped sentences"):
        best_and_worst(full["candidates"])
    full["candidates"][2]["sentences"][1]["verdict"] = "unverifiable"
    assert best_and_worst(full["candidates"]) == (0, 1)
    for candidate in full["candidates"]:
        candidate["sentences"][0]["verdict"] = "skipped"
    with pytest.raises(PrunedTooFar):
        best_and_worst(full["candidates"])


@pytest.mark.parametrize(("data", "saved"), [("biographies", 294), ("tofueval", 806)])
def test_real_labels(data, saved, request):
    """Verdicts that people gave; where they gave one sentence two, the first."""
    everything = asked = 0
    for row in request.getfixturevalue(data):
        row = copy.deepcopy(row)
        for candidate in row["candidates"]:
            candidate |= {"token_ids": [1], "decoding": "input"}
            for sentence in candidate["sentences"]:
                sentence |= {"verdict": sentence["label"], "detail": ""}
        [row] = asyncio.run(Labels()([row]))
        spans, verdicts = {}, {}
        for candidate in row["candidates"]:
            text = candidate["response"]
            spans[text] = [(s["start"], s["end"]) for s in candidate["sentences"]]
            for sentence in candidate["sentences"]:
                part = text[sentence["start"] : sentence["end"]].strip()
                verdicts.setdefault(part, sentence["verdict"])
        sizes = check(row, verdicts, lambda text, language, spans=spans: spans[text])
        everything, asked = everything + sizes[0], asked + sizes[1]
    assert everything - asked == saved
