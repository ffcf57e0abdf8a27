"""What a verdict counts as: in selection, and as something to learn from (docs/method.md).

The evaluation has its own definition, ``records.is_correct``, which no setting changes.
"""

from typing import Literal

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.records import is_correct

Sign = Literal[-1, 0, 1]  # incorrect, neither, correct


def counted_as(verdict: str, settings: PreferenceConfig) -> Sign:
    """How a sentence counts where answers are compared.

    Raises:
        ValueError: ``error``, ``skipped`` or an unknown verdict.
    """
    if verdict == "nofact" and settings.no_fact == "ignore":
        return 0
    if verdict == "unverifiable" and settings.unverifiable != "incorrect":
        return 1 if settings.unverifiable == "correct" else 0
    return 1 if is_correct(verdict) else -1


def learnt_as(verdict: str, settings: PreferenceConfig) -> Sign:
    """What a sentence is learnt as: correct ones on the chosen side, incorrect ones on the rejected
    side, others on neither.

    Raises:
        ValueError: as ``counted_as``.
    """
    if verdict == "nofact" and settings.no_fact == "mask":
        return 0
    return counted_as(verdict, settings)
