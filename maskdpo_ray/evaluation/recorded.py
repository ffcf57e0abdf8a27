"""Verdicts that were given before, given again: what annotators made of others would have said."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from maskdpo_ray.annotation.annotate import AnnotateLabelled
from maskdpo_ray.annotation.annotator import Verdict
from maskdpo_ray.annotation.asking import Span, known_unasked
from maskdpo_ray.annotation.calls import NOTHING_FOUND
from maskdpo_ray.annotation.details import tokens_of
from maskdpo_ray.config import AnnotationConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.records import Question
from maskdpo_ray.rundir import StageStore


class Answered(NamedTuple):
    """What an annotator made of labelled questions, by their ids."""

    rows: dict[str, Question]
    rejected: dict[str, RowRejected]


def answered(store: StageStore) -> Answered:
    """What stands in the store of an annotator's stage."""
    rejected = {
        row["id"]: RowRejected(row["reason"], row["detail"]) for row in store.rejected_rows()
    }
    return Answered({row["id"]: row for row in store.rows()}, rejected)


class Recorded:
    """An annotator that says what it said.

    Attributes:
        asked: the distinct sentences, or answers, of each question that it was asked about, and
            the tokens that took, None where it is not known.
    """

    failures = ()

    def __init__(self, answered: Answered) -> None:
        self._rejected = answered.rejected
        self._said: dict[tuple[str, str, Span], Verdict] = {}
        self._any: dict[tuple[str, str], Verdict] = {}
        for row in answered.rows.values():
            for response, span, text, verdict in said_of(row):
                self._said[row["id"], response, span] = verdict
                self._any.setdefault((row["id"], text), verdict)
        self.asked: dict[tuple[str, str], int | None] = {}

    async def verdict(self, question: Question, sentence: str) -> Verdict:
        self._check(question)
        said = self._any[question["id"], sentence]
        self._count(question, sentence, said)
        return said

    def _check(self, question: Question) -> None:
        if rejected := self._rejected.get(question["id"]):
            raise rejected

    def _count(self, question: Question, text: str, said: Verdict) -> None:
        if not said.detail.startswith(NOTHING_FOUND):  # nobody was asked
            self.asked[question["id"], text] = tokens_of(said.detail)


class RecordedOfAnswers(Recorded):
    """The same of an annotator of whole answers."""

    async def verdicts(self, question: Question, response: str, spans: list[Span]) -> list[Verdict]:
        self._check(question)
        said = [self._said[question["id"], response, span] for span in spans]
        self._count(question, response, said[0])
        return said

    verdicts_at = verdicts


def recorded(annotation: AnnotationConfig, answered: Answered) -> Recorded:
    return (RecordedOfAnswers if annotation.kind.by_answer() else Recorded)(answered)


def asked_alone(annotation: AnnotationConfig, answered: Answered) -> dict[Any, int | None]:
    """What an annotator is asked about where it is asked about everything (``Recorded.asked``)."""
    every = recorded(annotation, answered)

    async def ask() -> None:
        for row in answered.rows.values():
            by_answer: dict[str, list[Span]] = {}
            for response, span, text, _ in said_of(row):
                by_answer.setdefault(response, []).append(span)
                if not annotation.kind.by_answer() and known_unasked(text) is None:
                    await every.verdict(row, text)
            if annotation.kind.by_answer():
                for response, spans in by_answer.items():
                    await every.verdicts(row, response, spans)

    asyncio.run(ask())
    return every.asked


def said_again(
    annotation: AnnotationConfig, members: Iterable[Recorded], labelled: Iterable[Question]
) -> Answered:
    """What an annotator made of these says of the labelled sentences."""
    annotate = AnnotateLabelled(annotation.kind(annotation, list(members)))
    questions = list(labelled)
    rows, rejected = {}, {}
    outcomes = asyncio.run(annotate(questions))
    for question, outcome in zip(questions, outcomes, strict=True):
        of = rejected if isinstance(outcome, RowRejected) else rows
        of[question["id"]] = outcome
    return Answered(rows, rejected)


def said_of(row: Question) -> Iterable[tuple[str, Span, str, Verdict]]:
    """Each sentence of a row: its response, its place, its text, and the verdict."""
    for candidate in row["candidates"]:
        response = candidate["response"]
        for each in candidate["sentences"]:
            span = (each["start"], each["end"])
            text = response[each["start"] : each["end"]].strip()
            said = Verdict(each["verdict"], each["detail"], each.get("confidence"))
            yield response, span, text, said


def cost(asked: Mapping[Any, int | None]) -> dict[str, int | None]:
    """``calls``, and the ``tokens`` of those whose annotator tells; None where none does."""
    told = [tokens for tokens in asked.values() if tokens is not None]
    return {"calls": len(asked), "tokens": sum(told) if told else None}
