"""95 % intervals over topics.

Answers about one topic stand or fall together, so topics are drawn, not answers: a percentile
bootstrap. Where all topics say the same (none wrong of n, all answers right) every resample does
too, and the bootstrap would give an interval of zero width. There the interval is Wilson's score
interval (1927) of as many trials as there are topics. A mean of values from 0 to 1 varies at most
as much as a coin with its probability, so this one is not too narrow; it is wide where many answers
are about few topics, as it should be. One topic tells nothing about others: there is no interval.
"""

from math import sqrt

import numpy as np

Z = 1.959963984540054  # of 95 %, two-sided
EDGES = (0.025, 0.975)
NO_WIDTH = 1e-9


def wilson(share: float, trials: int) -> tuple[float, float]:
    """Wilson's interval of a share from 0 to 1 that was seen in so many trials."""
    centre = share + Z * Z / (2 * trials)
    spread = Z * sqrt(share * (1 - share) / trials + (Z / (2 * trials)) ** 2)
    low, high = ((centre + side * spread) / (1 + Z * Z / trials) for side in (-1, 1))
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def drawn_interval(
    share: float | None, drawn: np.ndarray, topics: int
) -> tuple[float, float] | None:
    """The interval of a figure.

    Args:
        share: the figure, from 0 to 1; None of one that is no share of anything.
        drawn: the figure of every resample; NaN where one has none.
        topics: topics that the figure is of.

    Returns:
        Both edges; None where there are fewer than two topics, and where no resample changes a
        figure that is no share.
    """
    if topics < 2:
        return None
    low, high = map(float, np.nanquantile(drawn, EDGES))
    if high - low >= NO_WIDTH:
        return low, high
    return None if share is None else wilson(share, topics)


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, resamples: int, seed: int
) -> tuple[float, float] | None:
    """Interval of ``sum(numerators) / sum(denominators)``, a share from 0 to 1, over topics.

    Args:
        numerators, denominators: one entry per topic; denominators are positive.

    Returns:
        As ``drawn_interval``.
    """
    topics = len(numerators)
    if topics < 2:
        return None
    random = np.random.default_rng(seed)
    drawn = random.multinomial(topics, np.full(topics, 1 / topics), size=resamples)
    ratios = (drawn @ numerators) / (drawn @ denominators)
    return drawn_interval(float(numerators.sum() / denominators.sum()), ratios, topics)


def sums_by(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum of ``values`` for each group that has any entry, in the order of the group's number."""
    _, positions = np.unique(groups, return_inverse=True)
    return np.bincount(positions, weights=values)


def percent_interval(
    topics: np.ndarray, values: np.ndarray, weights: np.ndarray, resamples: int, seed: int
) -> list[float] | None:
    """``ratio_interval``, in percent, of the sums over all entries.

    Args:
        topics: number of each entry's topic; those whose weights are all zero take no part.
        values, weights: one entry each.
    """
    numerators, denominators = sums_by(topics, values), sums_by(topics, weights)
    some = denominators > 0
    edges = ratio_interval(numerators[some], denominators[some], resamples, seed)
    return edges and [100 * edge for edge in edges]
