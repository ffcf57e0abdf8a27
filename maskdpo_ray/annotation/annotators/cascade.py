"""A cheap annotator decides what it is sure of, the next one gets the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from maskdpo_ray.annotation.annotator import Annotator, Verdict
from maskdpo_ray.annotation.bands import Band, stands
from maskdpo_ray.annotation.composite import (
    Composite,
    CompositeSettings,
    OfAnswers,
    Opinion,
    detail_of,
)
from maskdpo_ray.config.annotation import AnyAnnotation
from maskdpo_ray.config.section import Report


class CascadeSettings(CompositeSettings):
    """Annotators in order, the cheapest first."""

    FIELD = "cascade"

    cascade: list[AnyAnnotation] = Field(min_length=2)
    """Settings of each, as of `annotation`: what one is not sure of is left to the next."""
    bands: list[Band]
    """From which confidence on the verdicts of each but the last stand: a number, or one for each
    verdict that may stand, e.g. `{ok: 0.9, unverifiable: 0.8}`."""
    agreement: Report[float] = Field(default=0.9, gt=0, le=1)
    """Agreement with the labels that the bands keep which `maskdpo judge-check` proposes."""

    @model_validator(mode="after")
    def _one_band_each(self) -> CascadeSettings:
        if len(self.bands) != len(self.cascade) - 1:
            raise ValueError(
                f"bands: one for each of cascade but the last, {len(self.cascade) - 1}, not "
                f"{len(self.bands)}"
            )
        for number, member in enumerate(self.cascade[:-1]):
            if not member.confident:
                raise ValueError(
                    f"cascade.{number}: annotator {member.annotator!r} tells no confidence here, "
                    "so it would decide everything or nothing: let it tell one (`confidence: "
                    "true` of those that have it), or put it last"
                )
        return self

    @property
    def kind(self) -> type[Annotator]:
        return CascadeOfAnswers if self.whole_answers else Cascade

    @property
    def confident(self) -> bool:
        return self.cascade[-1].confident


class Cascade(Composite):
    """Each decides what it is sure of and leaves the rest to the next.

    The last decides all that it gets. What a member fails on, or will not judge, goes on to the
    next; the last one's error is the sentence's, and a question that it will not judge is rejected.
    """

    Settings = CascadeSettings

    @classmethod
    def needs_document(cls, settings: CascadeSettings, language: str) -> bool:
        last = settings.cascade[-1]
        return settings.knowledge is None and last.kind.needs_document(last, language)

    def asks(self, opinions: Mapping[int, Opinion]) -> Sequence[int]:
        asked = len(opinions)
        if asked == len(self.members):
            return ()
        decided = asked and stands(opinions[asked - 1].said, self.settings.bands[asked - 1])
        return () if decided else (asked,)

    def combined(self, opinions: Mapping[int, Opinion]) -> Verdict:
        last = opinions[len(opinions) - 1]
        if last.rejected:
            raise last.rejected
        return last.said._replace(detail=detail_of(opinions, last.by))


class CascadeOfAnswers(OfAnswers, Cascade):
    """A cascade with a member that judges whole answers."""
