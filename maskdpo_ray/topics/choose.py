"""Which topics to annotate for a budget."""

from collections.abc import Sequence

import numpy as np

from maskdpo_ray.topics.distance import DECIMALS, by_distance


def choose(
    keys: Sequence[str],
    vectors: np.ndarray,
    distances: np.ndarray,
    budget: int,
    diversity: float = 0.0,
) -> list[int]:
    """Greedy maximal marginal relevance (Carbonell and Goldstein, 1998).

    With λ the diversity and C what is chosen so far, the next topic t is the one with the largest

        (1 - λ) · (1 - distance(t)) - λ · max over c in C of cos(t, c)

    and the first is the nearest. λ = 0 takes the nearest topics; a larger one keeps out topics
    that are like those chosen already. Equal values go to the nearer topic, then to the first key.
    A smaller budget chooses the beginning of the same list.

    Args:
        keys: a name of its own for each topic.
        vectors: ``[topics, dimensions]``, rows of length 1.
        distances: ``[topics]``, to the nearest target: :func:`.distance.to_nearest`.
        budget: topics to choose, at most as many as there are.
        diversity: λ, from 0 to 1.

    Returns:
        Indices in the order of choice.

    Raises:
        ValueError: a budget or diversity out of range.
    """
    if not 0 < budget <= len(keys):
        raise ValueError(f"budget {budget} is not between 1 and {len(keys)}")
    if not 0.0 <= diversity <= 1.0:
        raise ValueError(f"diversity {diversity} is not between 0 and 1")
    order = by_distance(keys, distances)
    if diversity == 0.0:
        return order[:budget]
    relevance = (1.0 - diversity) * (1.0 - distances[order])
    ordered = vectors[order]
    chosen = [0]  # positions in ``order``, so that the first of equal values is the right one
    likeness = _likeness(ordered, 0)
    while len(chosen) < budget:
        value = np.round(relevance - diversity * likeness, DECIMALS)
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))
        likeness = np.maximum(likeness, _likeness(ordered, chosen[-1]))
    return [order[position] for position in chosen]


def _likeness(vectors: np.ndarray, position: int) -> np.ndarray:
    """Cosine of every vector with one of them."""
    return np.round((vectors @ vectors[position]).astype(np.float64), DECIMALS)
