"""Settings of annotation: what all annotators share. Each adds its own, where it is defined."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, model_validator

from maskdpo_ray.config.section import Content, Section

if TYPE_CHECKING:
    from maskdpo_ray.annotation.annotator import Annotator
    from maskdpo_ray.config.inputs import ModelConfig


class AnnotationConfig(Section):
    """A verdict for every sentence of every candidate."""

    annotator: str
    """A name (`maskdpo annotators` lists them), or `package.module:Class` or
    `package.module:function` of one's own (docs/your_annotator.md)."""
    prune: bool = False
    """Leave candidates that can no longer become best or worst: fewer calls, the same pairs."""
    overrides: Content[str | None] = None
    """Labels that people gave (docs/review.md): they take the place of verdicts when pairs are
    made, and nobody is asked again."""
    knowledge: Content[str | None] = None
    """Database of pages (`maskdpo knowledge`) in place of the documents of rows: each sentence is
    held against passages of its topic's page, or of all pages where the topic has none."""
    passages: int = Field(default=5, ge=1)
    """Passages of `knowledge` that a sentence is held against."""
    retrieval: Literal["bm25", "dense"] = "bm25"
    """How passages are found within a page."""
    embedding: Content[str | None] = None
    """Local folder or hub id of the encoder of `dense`, its hidden states mean-pooled."""
    embedding_revision: Content[str | None] = None
    """Branch, tag or commit of the encoder on the hub."""

    OF_KNOWLEDGE: ClassVar[tuple[str, ...]] = (
        "knowledge",
        "passages",
        "retrieval",
        "embedding",
        "embedding_revision",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_annotator(cls, given: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if cls is not AnnotationConfig or not isinstance(given, Mapping):
            return handler(given)
        named = {"annotator": _registry().of_settings(given), **given}
        chosen = cls.chosen(named)
        return handler(named) if chosen is cls else chosen.model_validate(named)

    @model_validator(mode="after")
    def _prunes_sentences(self) -> "AnnotationConfig":
        if self.prune and (reason := self.kind.why_not_pruned()):
            raise ValueError(f"annotator {self.annotator!r} {reason}: remove prune")
        return self

    @model_validator(mode="after")
    def _held_against(self) -> "AnnotationConfig":
        if self.knowledge is None:
            if given := self.changed(*self.OF_KNOWLEDGE):
                raise ValueError(f"{given[0]} is of knowledge: give that too, or remove it")
            return self
        if {"verdicts", "world"} & self.needs:
            raise ValueError(f"annotator {self.annotator!r} reads no pages: remove knowledge")
        if self.retrieval == "dense" and not self.embedding:
            raise ValueError("retrieval=dense needs embedding, the encoder of passages and queries")
        if self.retrieval == "bm25" and (given := self.changed("embedding", "embedding_revision")):
            raise ValueError(f"retrieval=bm25 uses no {given[0]}: remove it, or set dense")
        return self

    def held_against(self) -> dict[str, Any]:
        """The settings of ``knowledge``, for another examiner of the same answers."""
        return {key: getattr(self, key) for key in self.changed(*self.OF_KNOWLEDGE)}

    @classmethod
    def chosen(cls, given: Any) -> type["AnnotationConfig"]:
        """The section of the annotator that ``given`` names."""
        if cls is not AnnotationConfig or not isinstance(given, Mapping):
            return cls
        registry = _registry()
        return registry.annotator_named(
            given.get("annotator") or registry.of_settings(given)
        ).Settings

    @classmethod
    def elsewhere(cls, key: str) -> str | None:
        of = _registry().with_setting(key)
        return f"it is of annotator {' and '.join(of)}: remove it" if of else None

    @classmethod
    def of(cls, **given: Any) -> "AnnotationConfig":
        """The settings of the annotator that is named."""
        return cls.model_validate(given)

    @property
    def kind(self) -> type["Annotator"]:
        """The annotator."""
        return _registry().annotator_named(self.annotator)

    @property
    def members(self) -> dict[str, "AnnotationConfig"]:
        """The annotators that it is made of, by where they stand in it; most are of none."""
        return {}

    def with_members(self, key: str) -> Iterator[tuple[str, "AnnotationConfig"]]:
        """It and the annotators within, each by where it stands and as if it were asked alone."""
        yield key, self
        held = self.held_against()
        for place, member in self.members.items():
            yield from member.model_copy(update=held).with_members(f"{key}.{place}")

    @property
    def needs(self) -> frozenset[str]:
        """What it needs (``Annotator.needs``), its members included."""
        return frozenset(self.kind.needs).union(*(member.needs for member in self.members.values()))

    @property
    def engines(self) -> list[dict[str, Any]]:
        """Arguments of each engine that starts in its actor."""
        return [engine for member in self.members.values() for engine in member.engines]

    @property
    def servers(self) -> list[dict[str, Any]]:
        """Whom it asks elsewhere: the same name at two servers may be two models."""
        return [server for member in self.members.values() for server in member.servers]

    @property
    def confident(self) -> bool:
        """Whether verdicts come with a confidence."""
        return self.kind.tells_confidence

    @property
    def asked(self) -> str | None:
        """The annotating model, in the actors or at its server; None where no model judges."""
        return ", ".join(each.asked for each in self.members.values() if each.asked) or None

    @property
    def who(self) -> dict[str, str | None]:
        """Who judges, as reports say it."""
        return {"annotator": self.annotator, "model": self.asked}

    def second_opinion(
        self, policy: "ModelConfig", engine: dict[str, Any]
    ) -> "AnnotationConfig | None":
        """The policy as a further judge of what this one judges; None where that tells nothing."""
        return None


AnyAnnotation = SerializeAsAny[AnnotationConfig]


def _registry():
    """Who can annotate. Annotators have settings, so this is known only once those exist."""
    from maskdpo_ray.annotation import registry

    return registry
