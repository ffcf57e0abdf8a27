"""From candidates to sentences with verdicts."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from maskdpo_ray.annotation.annotator import Verdict, document_of
from maskdpo_ray.annotation.asking import Asking, Span, known_unasked
from maskdpo_ray.annotation.calls import NOTHING_FOUND
from maskdpo_ray.annotation.given_labels import check_labels
from maskdpo_ray.annotation.pruning import next_sentences
from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.knowledge.finder import Finder
from maskdpo_ray.preference.select import ranking_of, takes_part
from maskdpo_ray.records import SKIPPED_VERDICT, Candidate, Question, Sentence

SKIPPED = Verdict(SKIPPED_VERDICT, "not asked: this answer can be neither best nor worst")
UNFOUND = Verdict("unverifiable", f"{NOTHING_FOUND}: no page says a word of it")
BETWEEN = "\n\n"  # passages


class Annotate:
    """Splits every candidate and asks ``annotator`` about each distinct sentence of a question, or
    about each distinct answer.

    All questions of a row are asked at once, so an engine behind the annotator stays full, and a
    sentence that several candidates share is asked once: white space around it does not count.
    A candidate with an empty response, or one of the input that is not usable for pairs (a text
    without token ids), has no sentences. A given answer to a test question that people labelled
    keeps their sentences, so that the two can be compared. Fenced code is ``nofact``, nobody asked.

    Args:
        prune: ask in rounds, and only what best and worst candidate depend on (``pruning.py``)
            under these settings; the other sentences are ``skipped``.
        finder: finds the passages that stand in the place of a row's document, for each sentence
            those that are closest to it. Where no page says a word of it, it is ``unverifiable``.
    """

    def __init__(
        self,
        annotator: Any,
        split: Callable[[str, str], list[Span]] = split_sentences,
        *,
        prune: PreferenceConfig | None = None,
        finder: Finder | None = None,
    ) -> None:
        self._asking = Asking(annotator)
        self._by_answer = callable(getattr(annotator, "verdicts", None))
        self._needs = getattr(annotator, "needs", ())
        self._split = split
        self._prune = prune
        self._finder = finder

    async def __call__(self, rows: list[Question]) -> list[Question | RowRejected]:
        return await asyncio.gather(*map(self._annotate, rows))

    async def _annotate(self, row: Question) -> Question | RowRejected:
        spans = [self._spans(candidate, row["language"]) for candidate in row["candidates"]]
        texts = [
            [candidate["response"][start:end].strip() for start, end in cut]
            for candidate, cut in zip(row["candidates"], spans, strict=True)
        ]
        try:
            if "document" in self._needs and self._finder is None:
                document_of(row)
            said = await (self._by_answers if self._by_answer else self._by_sentences)(
                row, spans, texts
            )
        except RowRejected as rejected:
            return rejected
        return {**row, "candidates": _annotated(row, spans, said)}

    async def _by_sentences(
        self, row: Question, spans: list[list[Span]], texts: list[list[str]]
    ) -> list[list[Verdict]]:
        found: dict[str, Verdict] = {}

        def verdicts() -> list[list[Verdict]]:
            return [[found.get(text, SKIPPED) for text in of_candidate] for of_candidate in texts]

        following, taking_part = all_sentences, texts
        if self._prune:
            unasked = _annotated(row, spans, verdicts())
            following = partial(next_sentences, ranking=ranking_of(unasked, self._prune))
            kept = [takes_part(candidate, self._prune) for candidate in unasked]
            taking_part = [each if keep else [] for each, keep in zip(texts, kept, strict=True)]
        while asked := following(taking_part, {text: v.verdict for text, v in found.items()}):
            answers = await asyncio.gather(*(self._ask(row, text) for text in asked))
            found.update(zip(asked, answers, strict=True))
        return verdicts()

    async def _by_answers(
        self, row: Question, spans: list[list[Span]], texts: list[list[str]]
    ) -> list[list[Verdict]]:
        answers = [
            (candidate["response"], tuple(cut))
            for candidate, cut in zip(row["candidates"], spans, strict=True)
        ]
        asked = [answer for answer in dict.fromkeys(answers) if answer[1]]
        said = await asyncio.gather(
            *(self._ask_of_answer(row, response, list(cut)) for response, cut in asked)
        )
        found = dict(zip(asked, said, strict=True))
        return [list(found.get(answer, ())) for answer in answers]

    def _spans(self, candidate: Candidate, language: str) -> list[Span]:
        if candidate["sentences"] and candidate["decoding"] != "input":
            return _cut(candidate)
        # Answers that are only examined need no ids.
        usable = candidate["token_ids"] or candidate["decoding"] != "input"
        response = candidate["response"]
        return self._split(response, language) if response and usable else []

    async def _ask(self, row: Question, text: str) -> Verdict:
        if known := known_unasked(text):
            return known
        if self._finder is not None:
            found = await self._finder.passages(row["topic"], text, row["language"])
            if not found.texts:
                return UNFOUND
            row = {**row, "document": BETWEEN.join(found.texts)}
        return await self._asking.sentence(row, text)

    async def _ask_of_answer(self, row: Question, response: str, cut: list[Span]) -> list[Verdict]:
        if self._finder is not None:
            texts = (response[start:end].strip() for start, end in cut)
            found = await asyncio.gather(
                *(self._finder.passages(row["topic"], text, row["language"]) for text in texts)
            )
            passages = dict.fromkeys(passage for each in found for passage in each.texts)
            if not passages:
                return [UNFOUND] * len(cut)
            row = {**row, "document": BETWEEN.join(passages)}
        return await self._asking.answer(row, response, cut)


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


def _annotated(
    row: Question, spans: list[list[Span]], said: list[list[Verdict]]
) -> list[Candidate]:
    return [
        {**candidate, "sentences": _sentences(cut, verdicts)}
        for candidate, cut, verdicts in zip(row["candidates"], spans, said, strict=True)
    ]


def _sentences(spans: list[Span], verdicts: list[Verdict]) -> list[Sentence]:
    return [
        {"start": start, "end": end, **said._asdict()}
        for (start, end), said in zip(spans, verdicts, strict=True)
    ]
