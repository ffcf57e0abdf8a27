"""An annotator that errs at a known rate, to see what its errors do to training."""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import TYPE_CHECKING

from maskdpo_ray.annotation.annotator import Verdict
from maskdpo_ray.verdicts import CORRECT_VERDICTS, ERROR_VERDICT

if TYPE_CHECKING:
    from maskdpo_ray.annotation.annotator import Annotator
    from maskdpo_ray.records import Question

# Shape of the spread of doubt over sentences: most are judged with little of it, some with much.
CONCENTRATION = 2.0


class Erring:
    """Turns verdicts of another annotator into their opposite, ``error_rate`` of them on average.

    Each sentence has a doubt, the probability that its verdict is turned: half of a beta variate
    with mean ``2 error_rate`` and concentration 2, so between 0 and 1/2. The confidence is one
    less the doubt, and calibrated therefore: of the verdicts with confidence p a share of p
    is right. Doubt and turn depend on question and sentence alone, so the same question asked
    again gets the same answer.
    """

    def __init__(self, annotator: Annotator, error_rate: float) -> None:
        self._annotator = annotator
        self._error_rate = error_rate

    async def verdict(self, question: Question, sentence: str) -> Verdict:
        said = await self._annotator.verdict(question, sentence)
        if said.verdict == ERROR_VERDICT:
            return said
        doubt, turned = self._draw(question["id"], sentence)
        if not turned:
            return said._replace(confidence=1 - doubt)
        opposite = "contradictory" if said.verdict in CORRECT_VERDICTS else "ok"
        return Verdict(opposite, f"turned: {said.verdict}, {said.detail}", 1 - doubt)

    def _draw(self, question_id: str, sentence: str) -> tuple[float, bool]:
        key = blake2b(f"{question_id}\0{sentence}".encode(), digest_size=16).digest()
        variates = random.Random(key)
        mean = 2 * self._error_rate
        beta = variates.betavariate(CONCENTRATION * mean, CONCENTRATION * (1 - mean))
        return beta / 2, variates.random() < beta / 2
