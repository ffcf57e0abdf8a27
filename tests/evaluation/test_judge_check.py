"""Annotators made of others against labels: what is said again, what it cost, and which bands."""

import asyncio
import copy
import json
import random
import re

import pytest

from maskdpo_ray.annotation import Verdict
from maskdpo_ray.annotation.annotate import AnnotateLabelled
from maskdpo_ray.config import AnnotationConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.evaluation.agreement import agreement
from maskdpo_ray.evaluation.bands import (
    FEWEST,
    Labelled,
    decider,
    figures,
    grid,
    halves,
    labelled_sentences,
    proposed,
)
from maskdpo_ray.evaluation.judge_check import checked
from maskdpo_ray.evaluation.recorded import Answered
from maskdpo_ray.questions import read_questions
from maskdpo_ray.report.table import agreement_table, member_tables

ENCODER = {"annotator": "encoder", "model": "owner/name"}
JUDGE = {
    "annotator": "judge",
    "endpoint": {"base_url": "http://host/v1", "model": "big", "constrain": "vllm"},
}
OPTIONS = {"resamples": 200, "seed": 0}


def row(topic: str, *sentences: tuple) -> dict:
    """A question whose one answer has sentences of (text, verdict, confidence, tokens)."""
    response, cut = "", []
    for text, verdict, *more in sentences:
        confidence, tokens = (*more, None, None)[:2]
        detail = json.dumps({"tokens": tokens}) if tokens else "given"
        span = {"start": len(response), "end": len(response) + len(text)}
        cut.append({**span, "verdict": verdict, "detail": detail, "confidence": confidence})
        response += text
    candidate = {
        "index": 0, "seed": 0, "model": "m", "response": response, "token_ids": [],
        "finish_reason": "input", "decoding": "input", "sentences": cut,
    }  # fmt: skip
    base = {"id": topic, "topic": topic, "question": "?", "document": "d", "language": "en"}
    return {**base, "candidates": [candidate]}


def answered(*rows, rejected=()) -> Answered:
    refused = {each: RowRejected("document_missing", "none") for each in rejected}
    return Answered({each["id"]: each for each in rows}, refused)


LABELS = [
    row("a", ("A1. ", "ok"), ("A2. ", "unverifiable"), ("A1. ", "ok"), ("A3. ", "contradictory")),
    row("b", ("B1. ", "ok"), ("B2. ", "nofact"), ("B3. ", "error")),
    row("c", ("C1. ", "unverifiable"), ("C2. ", "ok")),
]
FIRST = answered(
    row("a", ("A1. ", "ok", 0.95, 10), ("A2. ", "ok", 0.6, 10), ("A1. ", "ok", 0.95, 10),
        ("A3. ", "contradictory", 0.9, 10)),
    row("b", ("B1. ", "unverifiable", 0.8, 10), ("B2. ", "nofact", 0.99, 10),
        ("B3. ", "ok", 0.99, 10)),
    rejected=["c"],
)  # fmt: skip
LAST = answered(
    row("a", ("A1. ", "unverifiable", None, 500), ("A2. ", "unverifiable", None, 500),
        ("A1. ", "unverifiable", None, 500), ("A3. ", "ok", None, 500)),
    row("b", ("B1. ", "ok", None, 500), ("B2. ", "nofact", None, 500), ("B3. ", "ok", None, 500)),
    row("c", ("C1. ", "unverifiable", None, 500), ("C2. ", "unverifiable", None, 500)),
)  # fmt: skip


def check(annotation: AnnotationConfig, said: dict[str, Answered], labels=LABELS):
    examiners = dict(annotation.with_members("annotation"))
    return checked(labels, examiners, said, examiners, 200, 0)


@pytest.fixture
def found():
    annotation = AnnotationConfig.of(cascade=[ENCODER, JUDGE], bands=[0.9])
    said = {"annotation.cascade.0": FIRST, "annotation.cascade.1": LAST}
    figures, without = check(annotation, said)
    assert not without
    assert list(figures) == ["annotation", "annotation.cascade.0", "annotation.cascade.1"]
    return figures


def test_a_cascade_is_worked_out_from_what_its_members_said(found):
    """A1 twice, A3, B2 by the first; A2, B1, and all of c, which the first rejects, by the last."""
    whole = found["annotation"]
    assert whole["verdicts"] == {
        "ok": {"ok": 3},
        "nofact": {"nofact": 1},
        "contradictory": {"contradictory": 1},
        "unverifiable": {"ok": 1, "unverifiable": 2},
    }
    assert whole["sentences"] == 8 and whole["accuracy"][0] == 7 / 8
    first, last = whole["members"].values()
    assert (first["name"], first["model"], last["name"]) == ("encoder", "owner/name", "judge")
    assert (first["decided"], last["decided"]) == (4, 4)
    assert first["share_decided"] == 0.5 and first["of_decided"]["accuracy"][0] == 1
    assert last["of_decided"]["accuracy"][0] == 3 / 4


def test_calls_and_tokens_are_counted_once_a_distinct_sentence(found):
    """The sentence that is labelled `error` is asked about too."""
    whole = found["annotation"]
    first, last = whole["members"].values()
    assert (first["calls"], first["tokens"]) == (6, 60)
    assert (last["calls"], last["tokens"]) == (4, 2000)
    assert (whole["calls"], whole["tokens"]) == (10, 2060)
    assert whole["calls_saved"] == pytest.approx(1 - 4 / 8)
    alone = found["annotation.cascade.1"]
    assert (alone["calls"], alone["tokens"]) == (8, 4000)
    assert (found["annotation.cascade.0"]["calls"], found["annotation.cascade.0"]["tokens"]) == (
        6, 60,
    )  # fmt: skip


def test_every_band_is_shown(found):
    bands = found["annotation"]["bands"]
    of = {each["band"]: each for each in bands}
    assert [each["member"] for each in bands] == [0] * len(bands)
    assert of[0.9]["share_decided"] == 0.5 and of[0.99]["share_decided"] == pytest.approx(1 / 8)
    assert of[0.5]["share_decided"] == pytest.approx(6 / 8)
    assert of[0.9]["cascade"]["accuracy"][0] == 7 / 8
    assert of[0.5]["cascade"]["accuracy"][0] == 5 / 8
    assert of[0.9]["calls_saved"] == pytest.approx(1 - 4 / 7)  # of the labelled ones


def test_the_tables(found):
    text = agreement_table(found)
    assert "asked 10 times (2060 tokens)" in text
    members, bands, proposal = member_tables(found)
    assert members.startswith("annotation, its members; 50.0% of the calls of the last are saved")
    [line] = [line.split() for line in members.splitlines() if line.startswith("annotation.cas")][
        :1
    ]
    assert line[:4] == ["annotation.cascade.0", "6", "60", "50.0%"]
    assert "annotation.cascade.0  0.99" in bands
    assert "no band keeps it" in proposal  # eight sentences


def test_a_vote_is_worked_out_too():
    annotation = AnnotationConfig.of(vote=[ENCODER, JUDGE, {**JUDGE, "max_tokens": 9}])
    said = {f"annotation.vote.{n}": each for n, each in enumerate([FIRST, LAST, LAST])}
    figures, _ = check(annotation, said)
    whole = figures["annotation"]
    assert whole["calls"] == 6 + 8 + 8 and "bands" not in whole
    assert whole["verdicts"] == figures["annotation.vote.1"]["verdicts"], "two of three"
    assert all(member["decided"] == 0 for member in whole["members"].values())
    assert len(member_tables(figures)) == 1


def test_one_that_judged_nothing_is_told_beside_the_others():
    annotation = AnnotationConfig.of(cascade=[ENCODER, JUDGE], bands=[0.9])
    nothing = answered(rejected=["a", "b", "c"])
    said = {"annotation.cascade.0": nothing, "annotation.cascade.1": LAST}
    figures, without = check(annotation, said)
    assert "no sentence of 0 questions" in without["annotation.cascade.0"]
    assert figures["annotation"]["verdicts"] == figures["annotation.cascade.1"]["verdicts"]
    assert figures["annotation"]["calls_saved"] == 0


def say(verdict: str, confidence: float | None = None) -> Verdict:
    return Verdict(verdict, "", confidence)


def drawn(topics: int = 60, each: int = 20, seed: int = 0) -> list[Labelled]:
    """Sentences on which a first annotator is right as often as it is confident, and a second in
    eight of ten."""
    chance, found = random.Random(seed), []
    other = {"ok": "unverifiable", "unverifiable": "ok"}
    for topic in range(topics):
        for n in range(each):
            label = chance.choice(["ok", "unverifiable"])
            sure = round(chance.uniform(0.5, 1), 3)
            first = label if chance.random() < sure else other[label]
            last = label if chance.random() < 0.8 else other[label]
            said = (say(first, sure), say(last))
            found.append(Labelled(f"t{topic}", f"q{topic}", f"s{n}", label, said))
    return found


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.95])
def test_a_proposed_band_keeps_the_agreement_where_it_was_not_chosen(wanted):
    found = proposed(drawn(), wanted, **OPTIONS)
    [member] = found["members"]
    agreement, low, high = member["decided"]["accuracy"]
    assert low - 0.02 <= wanted <= high + 0.02 and agreement == pytest.approx(wanted, abs=0.04)
    # Of a verdict that is right with its confidence c, those above t are right in (1 + t) / 2.
    [band] = found["bands"]
    for least in band.values():
        assert least == pytest.approx(2 * wanted - 1, abs=0.1)
    assert found["chosen_on"]["topics"] == found["shown_on"]["topics"] == 30
    assert found["chosen_on"]["sentences"] + found["shown_on"]["sentences"] == 1200


def test_the_halves_share_no_topic_and_the_figures_are_of_the_second():
    sentences = drawn()
    found = proposed(sentences, 0.9, **OPTIONS)
    assert found["bands"] != [None]
    chosen_on, shown_on = halves(sentences)
    assert not {each.topic for each in chosen_on} & {each.topic for each in shown_on}
    [member] = found["members"]
    assert member == figures(shown_on, found["bands"], 0, **OPTIONS)
    other = {"ok": "unverifiable", "unverifiable": "ok"}
    wrong = [each._replace(label=other[each.label]) for each in shown_on]
    assert proposed(chosen_on + wrong, 0.9, **OPTIONS)["bands"] == found["bands"]
    wrong = [each._replace(label=other[each.label]) for each in chosen_on]
    assert proposed(wrong + shown_on, 0.9, **OPTIONS)["bands"] == [None]


def test_few_sentences_propose_nothing():
    few = drawn(topics=2, each=FEWEST - 1)
    assert proposed(few, 0.5, **OPTIONS)["bands"] == [None]
    assert proposed(drawn(topics=1), 0.9, **OPTIONS)["shown_on"]["sentences"] == 0
    assert proposed([], 0.9, **OPTIONS)["bands"] == []


def test_bands_of_three_in_order():
    """What the first leaves is what the second's band is chosen on and counted of."""
    sentences = [
        each._replace(said=(*each.said[:1], say("ok", 0.9), each.said[1])) for each in drawn()
    ]
    found = proposed(sentences, 0.9, **OPTIONS)
    first, second = found["bands"]
    assert first and second is None
    shown = figures(sentences, [0.9, {"ok": 0.95}], 1, **OPTIONS)
    assert shown["share_decided"] == 0 and shown["decided"] is None
    assert decider(sentences[0].said, [2, 0.9]) == 1
    assert {each["member"] for each in grid(sentences[:40], [0.9, 0.9], **OPTIONS)} == {0, 1}


def test_the_figures_of_bands_are_those_of_the_cascade_itself():
    """What is worked out on the table of confidences is what the annotator would do."""
    said = {"annotation.cascade.0": FIRST, "annotation.cascade.1": LAST}
    sentences = labelled_sentences(LABELS, [FIRST.rows, LAST.rows])
    for band in (0.5, 0.7, 0.95, {"ok": 0.9}, {"contradictory": 0.1, "unverifiable": 0.85}):
        annotation = AnnotationConfig.of(cascade=[ENCODER, JUDGE], bands=[band])
        whole = check(annotation, said)[0]["annotation"]
        by_table = figures(sentences, [band], 0, **OPTIONS)
        assert by_table["cascade"]["accuracy"] == whole["accuracy"]
        assert by_table["cascade"]["kappa"] == whole["kappa"]
        share = whole["members"]["annotation.cascade.0"]["share_decided"]
        assert by_table["share_decided"] == pytest.approx(share)


class Overlap:
    """Whether the words of a sentence stand in the document: cheap, and wrong now and then."""

    failures = ()

    def verdict(self, question, sentence):
        ours, theirs = (words(text) for text in (sentence, question["document"]))
        share = len(ours & theirs) / len(ours) if ours else 0.0
        return say("ok", share) if share >= 0.5 else say("unverifiable", 1 - share)


class Known:
    """Says what people said of the first sentence of these words; remembers who asked."""

    failures = ()

    def __init__(self, labelled):
        self.asked = set()
        self.labels = {}
        for row in labelled:
            for candidate in row["candidates"]:
                for each in candidate["sentences"]:
                    text = candidate["response"][each["start"] : each["end"]].strip()
                    self.labels.setdefault((row["id"], text), each["verdict"])

    def verdict(self, question, sentence):
        self.asked.add((question["id"], sentence))
        return self.labels[question["id"], sentence]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w{4,}|\d+", text.lower()))


@pytest.fixture(scope="module")
def biographies_by_another(biographies, tmp_path_factory) -> list[dict]:
    """Real labelled answers of two models; what a third, which looks things up, wrote is the
    document."""
    rows = []
    for row in copy.deepcopy(biographies[:60]):
        answers = {candidate["model"]: candidate for candidate in row["candidates"]}
        document = answers.pop("PerplexityAI")["response"]
        rows.append({**row, "document": document, "candidates": list(answers.values())})
    file = tmp_path_factory.mktemp("labelled") / "q.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return [read for _, read in read_questions(str(file))]


def judged(annotator, rows) -> Answered:
    outcomes = asyncio.run(AnnotateLabelled(annotator)(copy.deepcopy(rows)))
    both = list(zip(rows, outcomes, strict=True))
    return Answered(
        {row["id"]: out for row, out in both if not isinstance(out, RowRejected)},
        {row["id"]: out for row, out in both if isinstance(out, RowRejected)},
    )


def test_on_real_labels(biographies_by_another):
    rows = biographies_by_another
    known = Known(rows)
    annotation = AnnotationConfig.of(cascade=[ENCODER, JUDGE], bands=[0.8], agreement=0.75)
    said = {
        "annotation.cascade.0": judged(Overlap(), rows),
        "annotation.cascade.1": judged(known, rows),
    }
    asked_alone = len(known.asked)
    whole = check(annotation, said, rows)[0]["annotation"]
    assert whole["sentences"] > 600 and 0.4 < whole["calls_saved"] < 0.6
    first = whole["members"]["annotation.cascade.0"]
    assert 0.7 < first["of_decided"]["accuracy"][0] < 0.9
    assert whole["members"]["annotation.cascade.1"]["of_decided"]["accuracy"][0] > 0.99

    # The cascade itself, asked for real, says and costs what was worked out.
    known.asked.clear()
    live = judged(annotation.kind(annotation, [Overlap(), known]), rows)
    both = agreement(
        ((live.rows[row["id"]], row) for row in rows if row["id"] in live.rows), resamples=10
    )
    assert both["verdicts"] == whole["verdicts"]
    assert 1 - len(known.asked) / asked_alone == pytest.approx(whole["calls_saved"])

    # Where it was not chosen, a proposed band does what was asked for, within its interval.
    [band], [shown] = whole["proposed"]["bands"], whole["proposed"]["members"]
    assert band and shown["decided"]["accuracy"][2] > 0.75 and shown["calls_saved"] > 0.2
