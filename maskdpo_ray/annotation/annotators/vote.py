"""Several annotators judge, and the majority decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from maskdpo_ray.annotation.annotator import Annotator, Verdict
from maskdpo_ray.annotation.composite import (
    Composite,
    CompositeSettings,
    OfAnswers,
    Opinion,
    detail_of,
)
from maskdpo_ray.config.annotation import AnyAnnotation
from maskdpo_ray.verdicts import CORRECT_VERDICTS, ERROR_VERDICT, INCORRECT_VERDICTS

GRAVEST_FIRST = (*INCORRECT_VERDICTS, *CORRECT_VERDICTS)


class VoteSettings(CompositeSettings):
    """Annotators that all judge every sentence."""

    FIELD = "vote"

    vote: list[AnyAnnotation] = Field(min_length=2)
    """Settings of each, as of `annotation`."""
    ballots: list[float] | None = None
    """What the vote of each weighs; one each if left out."""

    @model_validator(mode="after")
    def _one_ballot_each(self) -> VoteSettings:
        if self.ballots is None:
            return self
        if len(self.ballots) != len(self.vote) or not all(weight > 0 for weight in self.ballots):
            raise ValueError(f"ballots: a weight above 0 for each of vote, {len(self.vote)}")
        return self

    @property
    def kind(self) -> type[Annotator]:
        return VoteOfAnswers if self.whole_answers else Vote

    @property
    def confident(self) -> bool:
        return True


class Vote(Composite):
    """The majority decides between correct and incorrect, then, of those, for a verdict.

    A tie goes to the graver one (``contradictory``, ``unverifiable``, ``ok``, ``nofact``). The
    confidence is the share of the votes for that side. Who fails on a sentence has no vote; where
    nobody has one it is an ``error``, and where nobody will judge the question it is rejected.
    """

    Settings = VoteSettings

    @classmethod
    def needs_document(cls, settings: VoteSettings, language: str) -> bool:
        need = (member.kind.needs_document(member, language) for member in settings.vote)
        return settings.knowledge is None and all(need)

    def asks(self, opinions: Mapping[int, Opinion]) -> Sequence[int]:
        return () if opinions else range(len(self.members))

    def combined(self, opinions: Mapping[int, Opinion]) -> Verdict:
        if all(each.rejected for each in opinions.values()):
            raise opinions[0].rejected
        verdict, share = counted(
            [each.said.verdict for _, each in sorted(opinions.items())], self.settings.ballots
        )
        return Verdict(verdict, detail_of(opinions), share)


class VoteOfAnswers(OfAnswers, Vote):
    """A vote with a member that judges whole answers."""


def counted(
    verdicts: Sequence[str], ballots: Sequence[float] | None = None
) -> tuple[str, float | None]:
    """The verdict of the majority, and its side's share of the votes.

    Args:
        verdicts: one for each voter; ``error`` where it has no vote.
        ballots: what each vote weighs.
    """
    weights = dict.fromkeys(GRAVEST_FIRST, 0.0)
    for verdict, weight in zip(verdicts, ballots or [1.0] * len(verdicts), strict=True):
        if verdict != ERROR_VERDICT:
            weights[verdict] += weight
    cast = sum(weights.values())
    if not cast:
        return ERROR_VERDICT, None
    wrong = sum(weights[verdict] for verdict in INCORRECT_VERDICTS)
    right = sum(weights[verdict] for verdict in CORRECT_VERDICTS)
    side = INCORRECT_VERDICTS if wrong >= right else CORRECT_VERDICTS
    return max(side, key=weights.__getitem__), max(wrong, right) / cast  # the graver one first
