"""The win rate: the share of questions at which a system's answer is preferred, ties as halves.

A judge prefers what it is shown first or last, and what is longer. Each pair is shown in both
orders, and a preference that goes with the order counts as a tie (Zheng et al. 2023,
arXiv:2306.05685, section 3.4); and beside the win rate stands that of answers of similar length.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.intervals import percent_interval
from maskdpo_ray.evaluation.win_rate.judge import LOSS, TIE, WIN
from maskdpo_ray.records import ERROR_VERDICT, DuelRow

POINTS = {WIN: 1.0, TIE: 0.5, LOSS: 0.0}


def outcome(duel: DuelRow) -> str:
    """``win``, ``loss`` or ``tie`` of both orders; ``error`` where one of them has none."""
    seen = {duel["shown_first"], duel["shown_second"]}
    if ERROR_VERDICT in seen:
        return ERROR_VERDICT
    return seen.pop() if len(seen) == 1 else TIE


def similar(duel: DuelRow, ratio: float) -> bool:
    """Whether the longer answer has at most ``ratio`` times the characters of the shorter."""
    short, long = sorted(len(duel[key].strip()) for key in ("response", "base_response"))
    return long <= ratio * short


def win_rate(
    rows: Iterable[DuelRow], length_ratio: float, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Win rate of a system against the base.

    Returns:
        ``win_rate``, ``ci95``: percent, and its interval over topics; ``wins``, ``losses``,
        ``ties``: questions, among the ties ``disagreements`` between the orders and ``equal``
        texts; ``errors``: questions that the judge failed on, left out; ``first_preferred``:
        percent of all preferences that were for the answer shown first, 50 of a judge whom the
        order does not sway, None where there is no preference; ``questions``, ``topics``;
        ``similar``: ``win_rate``, ``ci95`` and ``questions`` of answers of similar length, the
        first two None where there are none.

    Raises:
        UserError: the judge failed on every question.
    """
    rows = list(rows)
    judged = [(row, found) for row in rows if (found := outcome(row)) != ERROR_VERDICT]
    if not judged:
        raise UserError(f"no win rate: the judge failed on all of {len(rows)} questions")
    numbers: dict[str, int] = {}
    topics = np.array([numbers.setdefault(row["topic"], len(numbers)) for row, _ in judged])
    points = np.array([POINTS[found] for _, found in judged])
    alike = np.array([similar(row, length_ratio) for row, _ in judged])

    def rate(kept: np.ndarray) -> dict[str, Any]:
        some = bool(kept.any())
        ones = np.ones(int(kept.sum()))
        return {
            "win_rate": 100 * float(points[kept].mean()) if some else None,
            "ci95": percent_interval(topics[kept], points[kept], ones, resamples, seed)
            if some
            else None,
            "questions": int(kept.sum()),
        }

    found = [each for _, each in judged]
    seen = [told for row, _ in judged for told in (row["shown_first"], row["shown_second"])]
    firsts = seen[::2].count(WIN) + seen[1::2].count(LOSS)
    preferred = len(seen) - seen.count(TIE)
    return {
        **rate(np.ones(len(judged), dtype=bool)),
        "wins": found.count(WIN),
        "losses": found.count(LOSS),
        "ties": found.count(TIE),
        "disagreements": sum(row["shown_first"] != row["shown_second"] for row, _ in judged),
        "equal": sum(row["response"] == row["base_response"] for row, _ in judged),
        "errors": len(rows) - len(judged),
        "first_preferred": 100 * firsts / preferred if preferred else None,
        "topics": len(numbers),
        "similar": rate(alike),
    }
