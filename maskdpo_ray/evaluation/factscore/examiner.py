"""Answers fact by fact: taken apart, looked up, verified."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from maskdpo_ray.annotation.sentences import Span, split_sentences
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.evaluation.abstention import abstains
from maskdpo_ray.evaluation.factscore.facts import Facts, FactWriter
from maskdpo_ray.evaluation.factscore.knowledge import Knowledge
from maskdpo_ray.evaluation.factscore.passages import cut_passages
from maskdpo_ray.evaluation.factscore.retrieval import Index, Indexer
from maskdpo_ray.evaluation.factscore.verification import Verifier
from maskdpo_ray.records import Candidate, ExaminedAnswer, Fact, FactRow, Question, StatedFacts

T = TypeVar("T")


ANSWERS = 100_000  # what models said, remembered at about a kilobyte each
PAGES = 128  # searchable pages, of up to megabytes; more than an actor works on at once


class Memo:
    """Work under a name, done once for all who ask, at once or later.

    Work that raises fails for those who wait for it and is done again for the next one. Of what is
    done, the ``most`` that were used last are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: OrderedDict[Hashable, asyncio.Task] = OrderedDict()

    async def __call__(self, name: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        task = self._tasks.get(name)
        if task is None or _failed(task):
            task = self._tasks[name] = asyncio.ensure_future(work())
        self._tasks.move_to_end(name)
        if len(self._tasks) > self._most:
            self._tasks.popitem(last=False)
        # Others may wait for it: who is cancelled must not take it along.
        return await asyncio.shield(task)


def _failed(task: asyncio.Task) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


class FactExaminer:
    """Examines answers against the page of their question's topic.

    Everything of a block of rows is asked at once, so that the engine stays full. As long as this
    object lives each distinct sentence is taken apart once, and each distinct fact about a topic
    verified once; an ``error`` is an answer like others, since decoding is greedy.

    Args:
        index: makes a page's passages searchable.
        k: passages that the verifier is shown.
        decodings: the answers that are examined; others are left out.
    """

    def __init__(
        self,
        writer: FactWriter,
        verifier: Verifier,
        knowledge: Knowledge,
        index: Indexer,
        k: int,
        decodings: Collection[str] = ("greedy",),
        split: Callable[[str, str], list[Span]] = split_sentences,
    ) -> None:
        self._writer = writer
        self._verifier = verifier
        self._knowledge = knowledge
        self._index = index
        self._k = k
        self._decodings = decodings
        self._split = split
        self._answers = Memo(ANSWERS)
        self._pages = Memo(PAGES)
        # One: embedding is work for the whole processor. Meanwhile the event loop goes on.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retrieval")

    async def __call__(self, rows: list[Question]) -> list[FactRow | RowRejected]:
        return await asyncio.gather(*map(self._examine, rows))

    async def _examine(self, row: Question) -> FactRow | RowRejected:
        try:
            self._writer.wording.of(row)
        except RowRejected as rejected:
            return rejected
        page = self._knowledge.page(row["topic"])
        if page is None:
            return RowRejected(
                "unknown_topic",
                f"no page {row['topic']!r} in {self._knowledge.path}: add one, or give the "
                "question the title of its page as topic",
            )
        chosen = [each for each in row["candidates"] if each["decoding"] in self._decodings]
        answers = await asyncio.gather(*(self._answer(row, page, each) for each in chosen))
        return {
            "id": row["id"],
            "topic": row["topic"],
            "question": row["question"],
            "language": row["language"],
            "answers": list(answers),
        }

    async def _answer(self, row: Question, page: str, candidate: Candidate) -> ExaminedAnswer:
        response, language = candidate["response"], row["language"]
        abstained = abstains(response, language)
        spans = [] if abstained else self._split(response, language)
        sentences = (self._sentence(row, page, response[a:b].strip()) for a, b in spans)
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

    async def _sentence(self, row: Question, page: str, text: str) -> StatedFacts:
        """``StatedFacts`` without the offsets."""
        language = row["language"]
        written: Facts = await self._answers(
            ("facts", language, text), lambda: self._writer.facts(text, language)
        )
        verified = (
            self._answers(
                ("verdict", language, row["topic"], fact),
                lambda fact=fact: self._verify(row, page, fact),
            )
            for fact in written.facts
        )
        facts = list(await asyncio.gather(*verified))
        return {"facts": facts, "error": written.error, "detail": written.detail}

    async def _verify(self, row: Question, page: str, fact: str) -> Fact:
        topic, language = row["topic"], row["language"]
        passages, index = await self._pages(
            (language, topic), lambda: self._apart(self._searchable, page, language)
        )
        shown = await self._apart(index.best, f"{topic} {fact}", self._k)
        verdict, detail = await self._verifier.judge(
            topic, fact, [passages[number] for number in shown], language
        )
        return {
            "text": fact,
            "verdict": verdict,
            "detail": json.dumps({**json.loads(detail), "passages": shown}, ensure_ascii=False),
        }

    def _searchable(self, page: str, language: str) -> tuple[list[str], Index]:
        passages = cut_passages(page, language)
        return passages, self._index(passages)

    async def _apart(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
