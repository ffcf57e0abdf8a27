"""From candidates to sentences with verdicts."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from maskdpo_ray.annotation.labels import check_labels
from maskdpo_ray.annotation.pruning import next_sentences
from maskdpo_ray.annotation.sentences import split_sentences, unit_kind
from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.preference.select import ranking_of
from maskdpo_ray.records import (
    ERROR_VERDICT,
    SKIPPED_VERDICT,
    VERDICTS,
    Candidate,
    Question,
    Sentence,
)

Span = tuple[int, int]


class Verdict(NamedTuple):
    """On one sentence."""

    verdict: str  # one of records.VERDICTS
    detail: str  # behind it
    confidence: float | None = None  # the annotator's probability of it, where it tells


SKIPPED = Verdict(SKIPPED_VERDICT, "not asked: this answer can be neither best nor worst")


CODE = Verdict("nofact", "code: a fence states nothing")


class Annotator(Protocol):
    """Says whether one sentence of an answer is true.

    Where it fails on a sentence it answers ``("error", reason)``: there is no default verdict.
    Where a whole question cannot be judged it raises ``RowRejected``.
    """

    async def verdict(self, question: Question, sentence: str) -> Verdict: ...


class Annotate:
    """Splits every candidate and asks ``annotator`` about each distinct sentence of a question.

    All questions of a row are asked at once, so an engine behind the annotator stays full, and a
    sentence that several candidates share is asked once: white space around it does not count.
    A candidate with an empty response, or one of the input that is not usable for pairs (a text
    without token ids), has no sentences. A given answer to a test question that people labelled
    keeps their sentences, so that the two can be compared. Fenced code is ``nofact``, nobody asked.

    Args:
        prune: ask in rounds, and only what best and worst candidate depend on (``pruning.py``)
            under these settings; the other sentences are ``skipped``.
    """

    def __init__(
        self,
        annotator: Annotator,
        split: Callable[[str, str], list[Span]] = split_sentences,
        *,
        prune: PreferenceConfig | None = None,
    ) -> None:
        self._annotator = annotator
        self._split = split
        self._prune = prune

    async def __call__(self, rows: list[Question]) -> list[Question | RowRejected]:
        return await asyncio.gather(*map(self._annotate, rows))

    async def _annotate(self, row: Question) -> Question | RowRejected:
        spans = [self._spans(candidate, row["language"]) for candidate in row["candidates"]]
        texts = [
            [candidate["response"][start:end].strip() for start, end in cut]
            for candidate, cut in zip(row["candidates"], spans, strict=True)
        ]

        def candidates(found: dict[str, Verdict]) -> list[Candidate]:
            return [
                {**candidate, "sentences": _sentences(cut, of_candidate, found)}
                for candidate, cut, of_candidate in zip(
                    row["candidates"], spans, texts, strict=True
                )
            ]

        following = all_sentences
        if self._prune:
            following = partial(next_sentences, ranking=ranking_of(candidates({}), self._prune))
        found: dict[str, Verdict] = {}
        try:
            while asked := following(texts, {text: said.verdict for text, said in found.items()}):
                answers = await asyncio.gather(*(self._ask(row, text) for text in asked))
                found.update(zip(asked, answers, strict=True))
        except RowRejected as rejected:
            return rejected
        return {**row, "candidates": candidates(found)}

    def _spans(self, candidate: Candidate, language: str) -> list[Span]:
        if candidate["sentences"] and candidate["decoding"] != "input":
            return _cut(candidate)
        # Answers that are only examined need no ids.
        usable = candidate["token_ids"] or candidate["decoding"] != "input"
        response = candidate["response"]
        return self._split(response, language) if response and usable else []

    async def _ask(self, row: Question, text: str) -> Verdict:
        if not text:
            return Verdict(ERROR_VERDICT, "nothing but white space")
        if unit_kind(text) == "code":
            return CODE
        said = Verdict(*await self._annotator.verdict(row, text))
        if said.verdict not in VERDICTS:
            raise ValueError(
                f"{type(self._annotator).__name__} answered {said.verdict!r} on question "
                f"{row['id']!r}; a verdict is one of {', '.join(VERDICTS)}"
            )
        return said


class AnnotateLabelled(Annotate):
    """Asks about the sentences that the input has labels on, as they were cut there."""

    async def _annotate(self, row: Question) -> Question | RowRejected:
        try:
            check_labels(row)
        except RowRejected as rejected:
            return rejected
        return await super()._annotate(row)

    def _spans(self, candidate: Candidate, language: str) -> list[Span]:
        return _cut(candidate)


def _cut(candidate: Candidate) -> list[Span]:
    return [(sentence["start"], sentence["end"]) for sentence in candidate["sentences"]]


def all_sentences(candidates: Sequence[Sequence[str]], verdicts: Mapping[str, str]) -> list[str]:
    """The distinct sentences that have no verdict yet, in order."""
    texts = dict.fromkeys(text for candidate in candidates for text in candidate)
    return [text for text in texts if text not in verdicts]


def _sentences(spans: list[Span], texts: list[str], found: dict[str, Verdict]) -> list[Sentence]:
    sentences: list[Sentence] = []
    for (start, end), text in zip(spans, texts, strict=True):
        said = found.get(text, SKIPPED)
        sentences.append({"start": start, "end": end, **said._asdict()})
    return sentences


def document_of(question: Question) -> str:
    """The reference document of a question, or ``RowRejected`` where it has none."""
    if not question["document"]:
        raise RowRejected(
            "document_missing",
            f"question {question['id']!r} has no document and this annotator needs one: add the "
            "key 'document' to the row, or let annotator 'judge' go by what its model knows "
            "(`templates: closed_book`)",
        )
    return question["document"]
