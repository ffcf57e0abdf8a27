"""An annotator made of several: whom to ask when, and what becomes of what they say.

A new way to put annotators together is a file in ``annotators/`` with two pure functions: who is
asked next (``Composite.asks``), and the verdict of what was said (``Composite.combined``). A member
keeps its settings, its identity, its failures and its call, of a sentence or of a whole answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import model_validator

from maskdpo_ray.annotation.annotator import Annotator, Verdict, document_of
from maskdpo_ray.annotation.asking import Asking, Span, known_unasked
from maskdpo_ray.annotation.details import tokens_of, written
from maskdpo_ray.config.annotation import AnnotationConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.memo import Memo
from maskdpo_ray.verdicts import ERROR_VERDICT

if TYPE_CHECKING:
    from maskdpo_ray.config.inputs import ModelConfig
    from maskdpo_ray.records import Question
    from maskdpo_ray.storage import Folder

REMEMBERED = 10_000  # sentences that several answers may share, of members that judge sentences


class CompositeSettings(AnnotationConfig):
    """Several annotators, each with its own settings."""

    FIELD: ClassVar[str]
    """The setting that lists them."""

    @property
    def members(self) -> dict[str, AnnotationConfig]:
        return {f"{self.FIELD}.{n}": each for n, each in enumerate(getattr(self, self.FIELD))}

    @property
    def names(self) -> list[str]:
        """What each member is called in details and reports: by its annotator, and, where that
        stands here twice, by its place too."""
        named = [member.annotator for member in self.members.values()]
        many = Counter(named)
        return [f"{name}.{n}" if many[name] > 1 else name for n, name in enumerate(named)]

    @property
    def whole_answers(self) -> bool:
        """Whether a member judges whole answers, so that all of it does."""
        return any(member.kind.by_answer() for member in self.members.values())

    @model_validator(mode="after")
    def _are_members(self) -> CompositeSettings:
        of_all = ("prune", "overrides", *self.OF_KNOWLEDGE)
        for place, member in self.members.items():
            if given := member.changed(*of_all):
                raise ValueError(
                    f"{place}.{given[0]} is of all members alike: set it beside {self.FIELD}"
                )
            if "verdicts" in member.needs:
                raise ValueError(
                    f"{place}: annotator {member.annotator!r} judges nothing, it takes the "
                    "verdicts of the input: remove it"
                )
        starts = [place for place, member in self.members.items() if member.engines]
        if len(starts) > 1:
            raise ValueError(
                f"{' and '.join(starts)} start an engine each, and an actor has room for one: ask "
                "all but one of them at a server (endpoint)"
            )
        return self

    def second_opinion(
        self, policy: ModelConfig, engine: dict[str, Any]
    ) -> AnnotationConfig | None:
        """That of the last member that has one: it is the most careful."""
        held = self.held_against()
        opinions = (
            member.model_copy(update=held).second_opinion(policy, engine)
            for member in reversed(self.members.values())
        )
        return next(filter(None, opinions), None)


class Opinion(NamedTuple):
    """What a member says of a sentence."""

    by: str
    said: Verdict
    rejected: RowRejected | None = None  # it will not judge this question at all


class Composite(Annotator):
    """Asks its members about a sentence until the verdict is known.

    A member that will not judge a question (``RowRejected``), or fails on a sentence, has the
    verdict ``error`` there; the rule says what becomes of it. ``detail`` is JSON: ``decided_by``,
    where one member did, ``said``, what each that was asked said, and the ``tokens`` of all.
    """

    Settings = CompositeSettings
    version = "1"
    failures = ()  # those of its members are theirs

    def __init__(self, settings: CompositeSettings, members: Sequence[Any]) -> None:
        super().__init__(settings)
        named = zip(settings.names, members, strict=True)
        self.members = [_Member(name, member) for name, member in named]

    # -- the rule ---------------------------------------------------------------------------------

    def asks(self, opinions: Mapping[int, Opinion]) -> Sequence[int]:
        """The members to ask next about a sentence; none once its verdict is known.

        Args:
            opinions: what members said so far, by their place.
        """
        raise NotImplementedError

    def combined(self, opinions: Mapping[int, Opinion]) -> Verdict:
        """The verdict, when nobody is to be asked any more.

        Raises:
            RowRejected: the question cannot be judged.
        """
        raise NotImplementedError

    # -- where the configuration is read ----------------------------------------------------------

    @classmethod
    def identity(cls, settings: CompositeSettings, key: str) -> dict[str, Any]:
        members = [
            member.kind.identity(member, f"{key}.{place}")
            for place, member in settings.members.items()
        ]
        return settings.decides() | {settings.FIELD: members, "code": cls.version}

    @classmethod
    def pinned(cls, settings: CompositeSettings, key: str) -> CompositeSettings:
        members = [
            member.kind.pinned(member, f"{key}.{place}")
            for place, member in settings.members.items()
        ]
        return settings.model_copy(update={settings.FIELD: members})

    @classmethod
    def build(cls, settings: CompositeSettings, world: Folder | None) -> Composite:
        members = settings.members.values()
        return cls(settings, [member.kind.build(member, world) for member in members])

    # -- the calls --------------------------------------------------------------------------------

    async def verdict(self, question: Question, sentence: str) -> Verdict:
        async def ask(member: int, places: list[int]) -> list[Opinion]:
            return [await self.members[member].sentence(question, sentence)]

        [said] = await self._judged(question, 1, ask)
        return said

    async def _judged(
        self,
        question: Question,
        sentences: int,
        ask: Callable[[int, list[int]], Awaitable[list[Opinion]]],
    ) -> list[Verdict]:
        """Verdicts on so many sentences; ``ask`` asks a member about some of them, by place."""
        if self.needs_document(self.settings, question["language"]):
            document_of(question)  # whichever sentences come so far: pruning leaves some out
        opinions: list[dict[int, Opinion]] = [{} for _ in range(sentences)]
        while True:
            asked: dict[int, list[int]] = {}
            for place, known in enumerate(opinions):
                for member in self.asks(known):
                    asked.setdefault(member, []).append(place)
            if not asked:
                return [self.combined(known) for known in opinions]
            answers = await asyncio.gather(*(ask(*each) for each in asked.items()))
            for (member, places), answered in zip(asked.items(), answers, strict=True):
                for place, opinion in zip(places, answered, strict=True):
                    opinions[place][member] = opinion


class OfAnswers(Composite):
    """The same of whole answers: some member judges those. One that judges sentences is asked once
    about a sentence that several answers share."""

    async def verdicts_at(
        self, question: Question, response: str, spans: list[Span]
    ) -> list[Verdict]:
        async def ask(member: int, places: list[int]) -> list[Opinion]:
            return await self.members[member].answer(question, response, [spans[p] for p in places])

        return await self._judged(question, len(spans), ask)

    async def verdicts(
        self, question: Question, response: str, sentences: list[str]
    ) -> list[Verdict]:
        """Of an answer that is nothing but these sentences, in this order."""
        spans, end = [], 0
        for sentence in sentences:
            start = response.index(sentence, end)
            end = start + len(sentence)
            spans.append((start, end))
        return await self.verdicts_at(question, response, spans)


class _Member:
    """An annotator among others."""

    def __init__(self, name: str, annotator: Any) -> None:
        self.name = name
        self._asking = Asking(annotator)
        self._by_answer = callable(getattr(annotator, "verdicts", None))
        self._known = Memo(REMEMBERED)

    async def sentence(self, question: Question, text: str) -> Opinion:
        try:
            return Opinion(self.name, await self._asking.sentence(question, text))
        except RowRejected as rejected:
            return self._refuses(rejected)

    async def answer(self, question: Question, response: str, spans: list[Span]) -> list[Opinion]:
        if not self._by_answer:
            texts = [response[start:end].strip() for start, end in spans]
            return await asyncio.gather(*(self._shared(question, text) for text in texts))
        try:
            said = await self._asking.answer(question, response, spans)
        except RowRejected as rejected:
            return [self._refuses(rejected)] * len(spans)
        return [Opinion(self.name, each) for each in said]

    async def _shared(self, question: Question, text: str) -> Opinion:
        if known := known_unasked(text):
            return Opinion(self.name, known._replace(confidence=1.0))
        name = (question["id"], question["document"], text)
        return await self._known(name, lambda: self.sentence(question, text))

    def _refuses(self, rejected: RowRejected) -> Opinion:
        reason = f"{rejected.reason}: {rejected.detail}"
        return Opinion(self.name, Verdict(ERROR_VERDICT, reason), rejected)


def detail_of(opinions: Mapping[int, Opinion], decided_by: str | None = None) -> str:
    """The ``detail`` of a verdict that these opinions gave."""
    said = [
        {"by": each.by, "verdict": each.said.verdict, "confidence": each.said.confidence}
        | {"detail": each.said.detail}
        for _, each in sorted(opinions.items())
    ]
    tokens = [n for each in opinions.values() if (n := tokens_of(each.said.detail)) is not None]
    return written(decided_by=decided_by, said=said, tokens=sum(tokens) if tokens else None)
