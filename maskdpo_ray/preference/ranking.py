"""Where a candidate stands among those of its question, also while sentences are not annotated yet.

The rule of docs/method.md, section 1, stands here alone: ``select.py`` picks the best and the worst
by it, ``annotation/pruning.py`` leaves out who can no longer become either.
"""

from collections.abc import Iterable
from typing import NamedTuple

from maskdpo_ray.records import SKIPPED_VERDICT, is_correct

Key = tuple[float, int, int]


class Tally(NamedTuple):
    """The sentences of one response, at least one, by what their verdicts count as."""

    correct: int
    incorrect: int
    skipped: int


def tally(verdicts: Iterable[str]) -> Tally:
    """Count the verdicts of one response.

    Raises:
        ValueError: ``error`` or an unknown verdict.
    """
    verdicts = list(verdicts)
    known = [is_correct(verdict) for verdict in verdicts if verdict != SKIPPED_VERDICT]
    return Tally(sum(known), len(known) - sum(known), len(verdicts) - len(known))


def as_best(tally: Tally, position: int) -> Key:
    """The best candidate has the largest of these: score, correct sentences, then who is first.

    Skipped sentences count as correct, so this bounds from above what the candidate can become.
    Equal fractions are equal floats, so keys may be compared with ``==``.
    """
    correct = tally.correct + tally.skipped
    return correct / sum(tally), correct, -position


def as_worst(tally: Tally, position: int) -> Key:
    """The worst candidate has the smallest of these: score, incorrect sentences, then who is first.

    Skipped sentences count as incorrect, so this bounds from below what the candidate can become.
    """
    return tally.correct / sum(tally), -(tally.incorrect + tally.skipped), position
