"""Answers fact by fact: taken apart, looked up, verified."""

import asyncio
import json
from collections.abc import Callable, Collection

from maskdpo_ray.annotation.sentences import Span, split_sentences
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.evaluation.abstention import abstains
from maskdpo_ray.evaluation.factscore.facts import Facts, FactWriter
from maskdpo_ray.evaluation.factscore.verification import Verifier
from maskdpo_ray.knowledge.finder import Finder
from maskdpo_ray.memo import Memo
from maskdpo_ray.records import Candidate, ExaminedAnswer, Fact, FactRow, Question, StatedFacts
from maskdpo_ray.sampling.counts import is_unfinished

ANSWERS = 100_000  # what models said, remembered at about a kilobyte each


class FactExaminer:
    """Examines answers against the page of their question's topic.

    Everything of a block of rows is asked at once, so that the engine stays full. As long as this
    object lives each distinct sentence is taken apart once, and each distinct fact about a topic
    verified once; an ``error`` is an answer like others, since decoding is greedy.

    Args:
        finder: the passages that the verifier is shown: of the topic's page, or of a search over
            all pages where it has none and the database can be searched.
        decodings: the answers that are examined; others are left out.
    """

    def __init__(
        self,
        writer: FactWriter,
        verifier: Verifier,
        finder: Finder,
        decodings: Collection[str] = ("greedy",),
        split: Callable[[str, str], list[Span]] = split_sentences,
    ) -> None:
        self._writer = writer
        self._verifier = verifier
        self._finder = finder
        self._decodings = decodings
        self._split = split
        self._answers = Memo(ANSWERS)

    async def __call__(self, rows: list[Question]) -> list[FactRow | RowRejected]:
        return await asyncio.gather(*map(self._examine, rows))

    async def _examine(self, row: Question) -> FactRow | RowRejected:
        try:
            self._writer.wording.of(row)
        except RowRejected as rejected:
            return rejected
        knowledge = self._finder.knowledge
        if not knowledge.searchable and knowledge.page(row["topic"]) is None:
            return RowRejected(
                "unknown_topic",
                f"no page {row['topic']!r} in {knowledge.path}: add one, give the question the "
                "title of its page as topic, or make a database that can be searched of it "
                f"(`maskdpo knowledge NEW.db {knowledge.path}`)",
            )
        chosen = [each for each in row["candidates"] if each["decoding"] in self._decodings]
        answers = await asyncio.gather(*(self._answer(row, each) for each in chosen))
        return {
            "id": row["id"],
            "topic": row["topic"],
            "question": row["question"],
            "language": row["language"],
            "answers": list(answers),
        }

    async def _answer(self, row: Question, candidate: Candidate) -> ExaminedAnswer:
        response, language = candidate["response"], row["language"]
        # Who never came to an answer has none, and has not declined to give one either.
        abstained = not is_unfinished(candidate) and abstains(response, language)
        spans = [] if abstained or not response else self._split(response, language)
        sentences = (self._sentence(row, response[a:b].strip()) for a, b in spans)
        examined = await asyncio.gather(*sentences)
        return {
            "index": candidate["index"],
            "response": response,
            "decoding": candidate["decoding"],
            "abstained": abstained,
            "sentences": [
                {"start": start, "end": end, **sentence}
                for (start, end), sentence in zip(spans, examined, strict=True)
            ],
        }

    async def _sentence(self, row: Question, text: str) -> StatedFacts:
        """``StatedFacts`` without the offsets."""
        language = row["language"]
        written: Facts = await self._answers(
            ("facts", language, text), lambda: self._writer.facts(text, language)
        )
        verified = (
            self._answers(
                ("verdict", language, row["topic"], fact),
                lambda fact=fact: self._verify(row, fact),
            )
            for fact in written.facts
        )
        facts = list(await asyncio.gather(*verified))
        return {"facts": facts, "error": written.error, "detail": written.detail}

    async def _verify(self, row: Question, fact: str) -> Fact:
        topic, language = row["topic"], row["language"]
        shown, numbers = await self._finder.passages(topic, fact, language)
        if not shown:
            detail = {"replies": [], "reason": "no page says a word of it", "passages": []}
            return {"text": fact, "verdict": "not_supported", "detail": json.dumps(detail)}
        verdict, detail = await self._verifier.judge(topic, fact, shown, language)
        return {
            "text": fact,
            "verdict": verdict,
            "detail": json.dumps({**json.loads(detail), "passages": numbers}, ensure_ascii=False),
        }
