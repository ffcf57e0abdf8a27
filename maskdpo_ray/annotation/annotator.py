"""What an annotator is: docs/your_annotator.md.

One class says everything of it: its settings, what it needs, what its verdicts depend on, how it is
built, and one of two calls. It is found by its name (``registry.py``); nothing else knows it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from maskdpo_ray.config.annotation import AnnotationConfig
from maskdpo_ray.config.section import Kind, kinds_of
from maskdpo_ray.errors import RowRejected

if TYPE_CHECKING:
    from maskdpo_ray.annotation.annotate import Annotate
    from maskdpo_ray.config import PreferenceConfig
    from maskdpo_ray.records import Question
    from maskdpo_ray.storage import Folder

Need = Literal["document", "gpu", "world", "verdicts"]


class Verdict(NamedTuple):
    """On one sentence."""

    verdict: str  # one of records.VERDICTS
    detail: str = ""  # behind it
    confidence: float | None = None  # the annotator's probability of it, where it tells


class Mark(NamedTuple):
    """On the characters ``response[start:end]`` of an answer (``marks.py``)."""

    start: int
    end: int
    verdict: str
    detail: str = ""
    confidence: float | None = None


class Annotator:
    """Says which sentences of an answer are true. A class of one's own defines one of

    ``verdict(question, sentence)``: a verdict (``records.VERDICTS``), or a ``Verdict`` with what is
    behind it. It is asked once about a sentence that several answers to a question share.

    ``verdicts(question, response, sentences)``: about a whole answer, a list: a verdict for each
    sentence, or a ``Mark`` for each stretch of the answer that it has something to say of.

    Either may be ``async``. ``question`` is a row (``records.Question``). Where it fails on a
    sentence it raises, or answers ``error``: there is no default verdict. Where a whole question
    cannot be judged it raises ``RowRejected``.

    Attributes:
        Settings: its keys of the section ``annotation``.
        needs: ``document``: questions without one are rejected; ``gpu``: its pool must have one;
            ``world``: the embedded closed world; ``verdicts``: those of the input.
        tells_confidence: its verdicts come with a probability.
        default: it is taken where none is named.
        version: names what is in its code; None: the file of the class does, so that a changed
            file annotates again.
        failures: exceptions that concern the sentence alone, which gets the verdict ``error``.
    """

    Settings: ClassVar[type[AnnotationConfig]] = AnnotationConfig
    needs: ClassVar[frozenset[Need] | set[Need]] = frozenset()
    tells_confidence: ClassVar[bool] = False
    default: ClassVar[bool] = False
    version: ClassVar[str | None] = None
    failures: ClassVar[tuple[type[Exception], ...]] = (Exception,)

    verdict: Callable[[Question, str], Verdict | str | Awaitable[Verdict | str]]
    verdicts: Callable[[Question, str, list[str]], Sequence[Any] | Awaitable[Sequence[Any]]]

    def __init__(self, settings: Any) -> None:
        """In the actor: what takes long is loaded here."""
        self.settings = settings

    # -- asked where the configuration is read, before anything starts ----------------------------

    @classmethod
    def by_answer(cls) -> bool:
        """Whether it judges whole answers."""
        return hasattr(cls, "verdicts")

    @classmethod
    def why_not_pruned(cls) -> str | None:
        """Why sentences cannot be left out, in words."""
        return "judges whole answers" if cls.by_answer() else None

    @classmethod
    def identity(cls, settings: Any, key: str) -> dict[str, Any]:
        """What its verdicts depend on: the settings that decide, the content of what others name
        (``Content``), and its code.

        Args:
            key: where the section stands in the configuration, for errors.

        Raises:
            UserError: something that is named is not there.
        """
        from maskdpo_ray.identity import content_identity, file_digest

        of_all = AnnotationConfig.model_fields  # stages/annotating.py knows those
        named = [
            name
            for name, kind in kinds_of(type(settings)).items()
            if kind is Kind.CONTENT and name not in of_all
        ]
        contents = {
            name: content_identity(value, f"{key}.{name}")
            for name in named
            if (value := getattr(settings, name)) is not None
        }
        return settings.decides() | contents | {"code": cls.version or file_digest(cls.source())}

    @classmethod
    def source(cls) -> str:
        """The file of its code."""
        return inspect.getfile(cls)

    @classmethod
    def pinned(cls, settings: Any, key: str) -> Any:
        """The settings with which every node loads the same, though what they name moves on."""
        return settings

    @classmethod
    def needs_document(cls, settings: Any, language: str) -> bool:
        """Whether it rejects a question of this language that has no document."""
        return "document" in cls.needs and settings.knowledge is None

    # -- in the actor -----------------------------------------------------------------------------

    @classmethod
    def build(cls, settings: Any, world: Folder | None) -> Annotator:
        """The annotator of these settings; ``world`` is the folder of the closed world."""
        return cls(settings)

    @classmethod
    def processor(
        cls,
        settings: Any,
        world: Folder | None = None,
        labelled: bool = False,
        preference: PreferenceConfig | None = None,
    ) -> Annotate:
        """What the stage runs.

        Args:
            labelled: ask about the labelled sentences of the input, not about those of our
                splitter.
            preference: how pairs are selected, for ``annotation.prune``; the paper's way by
                default.
        """
        from maskdpo_ray.annotation.annotate import Annotate, AnnotateLabelled
        from maskdpo_ray.config import PreferenceConfig
        from maskdpo_ray.knowledge.finder import open_finder

        finder = open_finder(settings) if settings.knowledge else None  # first: it takes no time
        annotator = cls.build(settings, world)
        prune = (preference or PreferenceConfig()) if settings.prune else None
        made = AnnotateLabelled if labelled else Annotate
        return made(annotator, prune=prune, finder=finder)


def document_of(question: Question) -> str:
    """The reference document of a question, or ``RowRejected`` where it has none."""
    if not question["document"]:
        raise RowRejected(
            "document_missing",
            f"question {question['id']!r} has no document and this annotator needs one: add the "
            "key 'document' to the row, or take an annotator that goes by what its model knows "
            "(docs/annotators.md, `templates: closed_book`)",
        )
    return question["document"]
