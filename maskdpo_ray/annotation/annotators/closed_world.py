"""The annotator of the embedded closed world: it knows the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from maskdpo_ray.annotation.annotator import Annotator, Verdict
from maskdpo_ray.annotation.erring import Erring
from maskdpo_ray.config.annotation import AnnotationConfig
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.world.annotator import closed_world_verdict
from maskdpo_ray.world.facts import Facts

if TYPE_CHECKING:
    from maskdpo_ray.records import Question
    from maskdpo_ray.storage import Folder


class ClosedWorldSettings(AnnotationConfig):
    """Exact verdicts, or verdicts that err at a known rate."""

    error_rate: float = Field(default=0, ge=0, lt=0.5)
    """Share of verdicts that are turned into their opposite, with a calibrated confidence: what
    errors of an annotator do to training."""

    @property
    def confident(self) -> bool:
        return self.error_rate > 0


class ClosedWorldAnnotator(Annotator):
    """Exact verdicts, without a model."""

    Settings = ClosedWorldSettings
    needs = {"world"}
    version = "1"
    failures = ()

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    @classmethod
    def build(cls, settings: ClosedWorldSettings, world: Folder | None) -> Any:
        annotator = cls(read_facts(world))
        return Erring(annotator, settings.error_rate) if settings.error_rate else annotator

    async def verdict(self, question: Question, sentence: str) -> Verdict:
        """Verdict on one sentence.

        Raises:
            RowRejected: the question's topic is nobody in this world.
        """
        topic = question["topic"]
        if topic not in self._facts:
            raise RowRejected(
                "unknown_topic",
                f"question {question['id']!r} asks about {topic!r}, who is nobody in this closed "
                f"world of {len(self._facts)} people: questions and facts must be of one world",
            )
        return Verdict(*closed_world_verdict(self._facts, topic, sentence))


def read_facts(world: Folder | None) -> Facts:
    """The truth of a closed world: full name -> kind of fact -> value."""
    if world is None or not world.exists("facts.json"):
        raise UserError(f"annotator 'closed_world' needs the world's facts.json; none in {world}")
    return world.read_json("facts.json")
