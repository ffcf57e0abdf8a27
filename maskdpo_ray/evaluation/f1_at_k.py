"""Precision, recall at K and F1@K of answers (Wei et al. 2024, arXiv:2403.18802, section 5).

Of an answer with S supported and N unsupported facts, P = S / (S + N), R_K = min(S / K, 1), and
F1@K = 2 P R_K / (P + R_K), which is 0 where S = 0. K is the number of facts that a reader wants:
who says fewer right ones loses recall, who says more gains none. Here a fact is a sentence that
states one: right ones are supported, contradictory and unverifiable ones are not, and sentences
without a fact count neither way.
"""

from math import ceil
from typing import Any

import numpy as np

from maskdpo_ray.evaluation.intervals import percent_interval
from maskdpo_ray.evaluation.responses import Responses


def median_facts(responses: Responses) -> int:
    """The median number of sentences that state a fact, rounded up, at least 1: K of a model whose
    detail is to be kept.

    Args:
        responses: at least one; those with errors are left out where others are.
    """
    whole = responses[responses.errors == 0]
    return max(1, ceil(np.median((whole if len(whole) else responses).facts)))


def f1_of_answers(responses: Responses, k: int) -> np.ndarray:
    """F1@K of every answer, as a share: ``[responses]``."""
    supported = responses.ok.astype(float)
    precision, recall = supported / np.maximum(responses.facts, 1), np.minimum(supported / k, 1)
    f1 = np.zeros(len(responses))
    right = supported > 0
    f1[right] = 2 * precision[right] * recall[right] / (precision[right] + recall[right])
    return f1


def f1_at_k(responses: Responses, k: int, *, resamples: int, seed: int) -> dict[str, Any]:
    """Means over answers, in percent, and their intervals over topics.

    Answers with a sentence that the annotator failed on are left out. An answer that states nothing
    has recall and F1 0, and no precision.

    Returns:
        ``k``; ``f1``, ``recall``, ``precision``, the last None where no answer states a fact; each
        with ``NAME_ci95``.
    """
    whole = responses[responses.errors == 0]
    supported, facts = whole.ok.astype(float), whole.facts
    precision = supported / np.maximum(facts, 1)
    recall = np.minimum(supported / k, 1)
    found: dict[str, Any] = {"k": k}
    every = np.ones(len(whole))
    for name, values, weights in (
        ("f1", f1_of_answers(whole, k), every),
        ("recall", recall, every),
        ("precision", precision, facts > 0),
    ):
        some = bool(weights.any())
        found[name] = 100 * float(values.sum() / weights.sum()) if some else None
        found[f"{name}_ci95"] = (
            percent_interval(whole.topic, values, weights, resamples, seed) if some else None
        )
    return found
