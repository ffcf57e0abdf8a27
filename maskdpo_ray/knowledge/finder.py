"""The passages that a sentence is held against."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from maskdpo_ray.knowledge.database import Knowledge
from maskdpo_ray.knowledge.passages import cut_passages, words
from maskdpo_ray.knowledge.retrieval import Index, Indexer, indexer
from maskdpo_ray.memo import Memo
from maskdpo_ray.model_files import local_file

if TYPE_CHECKING:
    from maskdpo_ray.config import AnnotationConfig

T = TypeVar("T")
PAGES = 128  # searchable pages, of up to megabytes; more than an actor works on at once
SEARCHED = 10  # pages that a search over all of them takes passages from


def open_finder(settings: "AnnotationConfig") -> "Finder":
    """The finder of a section with ``knowledge``.

    Raises:
        UserError: there is no database, or a package is missing.
    """
    knowledge = Knowledge(local_file(settings.knowledge))
    index = indexer(settings.retrieval, settings.embedding, settings.embedding_revision)
    return Finder(knowledge, index, settings.passages)


class Passages(NamedTuple):
    """What was found, in the order of its page."""

    texts: list[str]
    numbers: list[int]  # places of the passages in their page, or in the pages that were found


class Finder:
    """Passages from the topic's page where there is one, else from a search over all pages.

    Args:
        index: makes passages searchable.
        k: passages to find.
    """

    def __init__(self, knowledge: Knowledge, index: Indexer, k: int) -> None:
        self.knowledge = knowledge
        self._index, self._k = index, k
        self._pages = Memo(PAGES)
        # One: embedding is work for the whole processor. Meanwhile the event loop goes on.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retrieval")

    async def passages(self, topic: str, text: str, language: str) -> Passages:
        """The passages closest to topic and text; none where no page says a word of either."""
        query = f"{topic} {text}"
        page = self.knowledge.page(topic)
        if page is None and not self.knowledge.searchable:
            return Passages([], [])
        if page is not None:
            found, index = await self._pages(
                (language, topic), lambda: self._apart(self._searchable, [page], language)
            )
        else:
            found, index = await self._apart(self._found, query, language)
        if not found:
            return Passages([], [])
        numbers = await self._apart(index.best, query, self._k)
        return Passages([found[number] for number in numbers], numbers)

    def _found(self, query: str, language: str) -> tuple[list[str], Index | None]:
        pages = [text for _, text in self.knowledge.search(query, SEARCHED)]
        asked = set(words(query))
        found = [
            passage
            for page in pages
            for passage in cut_passages(page, language)
            if asked & set(words(passage))
        ]
        return found, self._index(found) if found else None

    def _searchable(self, pages: list[str], language: str) -> tuple[list[str], Index | None]:
        found = [passage for page in pages for passage in cut_passages(page, language)]
        return found, self._index(found) if found else None

    async def _apart(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
