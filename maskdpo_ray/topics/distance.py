"""How far a training topic is from the target topics, and the halves that this makes.

The paper's table 5 trains on the near and on the far half of the topics, and on random halves as
the noise floor.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

ROWS_AT_ONCE = 4096
# Beyond this the arithmetic of a machine speaks, and equal distances must stay equal.
DECIMALS = 6


def to_nearest(pool: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each topic's distance 1 - cos to its nearest target topic.

    Args:
        pool: ``[topics, dimensions]``, rows of length 1.
        targets: ``[targets, dimensions]``, rows of length 1.

    Returns:
        ``[topics]`` distances, float64 between 0 and 2 with ``DECIMALS`` decimals, and ``[topics]``
        indices of the targets, the first of equally near ones.

    Raises:
        ValueError: no target, other dimensions, or rows of another length.
    """
    if not len(targets) or pool.shape[1:] != targets.shape[1:]:
        raise ValueError(f"pool {pool.shape} and targets {targets.shape} do not fit")
    _refuse_other_lengths(pool)
    _refuse_other_lengths(targets)
    distances, nearest = np.empty(len(pool)), np.empty(len(pool), dtype=np.int64)
    transposed = targets.astype(np.float64).T
    for start in range(0, len(pool), ROWS_AT_ONCE):
        here = slice(start, start + ROWS_AT_ONCE)
        apart = np.round(1.0 - pool[here].astype(np.float64) @ transposed, DECIMALS)
        nearest[here] = apart.argmin(axis=1)
        distances[here] = apart.min(axis=1)
    return np.clip(distances, 0.0, 2.0), nearest


def by_distance(keys: Sequence[str], distances: np.ndarray) -> list[int]:
    """Indices from the nearest topic to the farthest; equal distances are ordered by key."""
    return sorted(range(len(keys)), key=lambda index: (distances[index], keys[index]))


def halves(keys: Sequence[str], distances: np.ndarray) -> tuple[list[int], list[int]]:
    """Indices of the near and of the far half, each from its nearest on.

    They are equally large: of an odd number of topics the middle one is in neither.
    """
    return _halves(by_distance(keys, distances))


def random_halves(keys: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """Indices of two random halves, disjoint and equally large.

    The order depends on the seed and each topic's key only, so it is the same everywhere.
    """

    def place(index: int) -> bytes:
        return hashlib.sha256(f"{seed}\0{keys[index]}".encode("utf-8", "surrogatepass")).digest()

    return _halves(sorted(range(len(keys)), key=place))


def _halves(order: list[int]) -> tuple[list[int], list[int]]:
    half = len(order) // 2
    return order[:half], order[len(order) - half :]


def _refuse_other_lengths(vectors: np.ndarray) -> None:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not np.allclose(lengths, 1.0, atol=1e-3):
        raise ValueError("vectors must have length 1")
