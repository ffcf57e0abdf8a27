"""Bootstrap intervals over topics.

Answers about one topic stand or fall together, so topics are drawn, not answers.
"""

import numpy as np


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, resamples: int, seed: int
) -> list[float]:
    """95 % percentile interval of ``sum(numerators) / sum(denominators)`` over drawn topics.

    Args:
        numerators, denominators: one entry per topic; denominators are positive.
    """
    topics = len(numerators)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(topics, np.full(topics, 1 / topics), size=resamples)
    ratios = (drawn @ numerators) / (drawn @ denominators)
    return [float(edge) for edge in np.quantile(ratios, (0.025, 0.975))]


def sums_by(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum of ``values`` for each group that has any entry, in the order of the group's number."""
    _, positions = np.unique(groups, return_inverse=True)
    return np.bincount(positions, weights=values)


def percent_interval(
    topics: np.ndarray, values: np.ndarray, weights: np.ndarray, resamples: int, seed: int
) -> list[float]:
    """``ratio_interval``, in percent, of the sums over all entries.

    Args:
        topics: number of each entry's topic; those whose weights are all zero take no part.
        values, weights: one entry each.
    """
    numerators, denominators = sums_by(topics, values), sums_by(topics, weights)
    some = denominators > 0
    edges = ratio_interval(numerators[some], denominators[some], resamples, seed)
    return [100 * edge for edge in edges]
