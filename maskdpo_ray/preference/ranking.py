"""Where a candidate stands among those of its question, also while sentences are not annotated yet.

The rules of docs/method.md, section 1, stand here alone: ``select.py`` picks the best and the worst
by them, ``annotation/pruning.py`` leaves out who can no longer become either.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from statistics import median
from typing import NamedTuple

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.verdicts import counted_as
from maskdpo_ray.records import SKIPPED_VERDICT

Key = tuple[Fraction, int, int]


class Tally(NamedTuple):
    """The sentences of one response by what their verdicts count as; some count as nothing."""

    correct: int
    incorrect: int
    skipped: int


class Ranking:
    """How the candidates of one question are compared. Without arguments, as in the paper.

    No score falls where a sentence that is incorrect, or counts neither way, becomes correct; none
    rises where one becomes incorrect. So a response scores the most that it can come to where all
    its skipped sentences are correct, and the least where all are incorrect. Scores are fractions,
    so equal ones are equal.

    Args:
        sizes: sentences of every candidate that takes part, for the K of ``f1@k``.
    """

    def __init__(self, settings: PreferenceConfig | None = None, sizes: Sequence[int] = ()) -> None:
        self.settings = settings or PreferenceConfig()
        self.k = Fraction(self.settings.f1_k or (median(sizes) if sizes else 1))
        self._penalty = Fraction(str(self.settings.net_lambda))  # 0.1 is a tenth

    def tally(self, verdicts: Iterable[str]) -> Tally:
        """Count the verdicts of one response.

        Raises:
            ValueError: ``error`` or an unknown verdict.
        """
        verdicts = list(verdicts)
        known = [counted_as(v, self.settings) for v in verdicts if v != SKIPPED_VERDICT]
        return Tally(known.count(1), known.count(-1), len(verdicts) - len(known))

    def score(self, correct: int, incorrect: int) -> Fraction:
        """What decides between two responses; at least one sentence must count.

        ``precision`` (paper, section 2.2): correct / (correct + incorrect). ``f1@k`` (SAFE,
        arXiv:2403.18802): the harmonic mean of that and min(correct / K, 1), which is
        2 correct / (correct + incorrect + max(K, correct)). ``net``: correct - lambda incorrect.
        """
        match self.settings.select:
            case "precision":
                return Fraction(correct, correct + incorrect)
            case "f1@k":
                return Fraction(2 * correct) / (correct + incorrect + max(self.k, correct))
            case "net":
                return correct - self._penalty * incorrect

    def as_best(self, tally: Tally, position: int) -> Key:
        """The best candidate has the largest of these: score, correct sentences, who is first.

        Skipped sentences are taken to be correct: nothing that the candidate can become is larger.
        """
        correct = tally.correct + tally.skipped
        return self.score(correct, tally.incorrect), correct, -position

    def as_worst(self, tally: Tally, position: int) -> Key:
        """The worst candidate has the smallest of these: score, incorrect sentences (the most),
        who is first.

        Skipped sentences are taken to be incorrect: nothing that the candidate can become is
        smaller.
        """
        incorrect = tally.incorrect + tally.skipped
        return self.score(tally.correct, incorrect), -incorrect, position


PAPER = Ranking()
