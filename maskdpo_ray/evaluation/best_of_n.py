"""Expected best of N answers, for every N from one set of samples (paper, table 6).

With n scored samples of a question, the chance that the i-th smallest score is the largest of N
drawn without replacement is C(i-1, N-1) / C(n, N). Weighting the sorted scores with it gives the
expected best of N without a single further sample, and without the noise of drawing one subset.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.intervals import percent_interval
from maskdpo_ray.evaluation.responses import Responses, read_responses
from maskdpo_ray.records import Question


def best_weights(n: int, best_of: int) -> np.ndarray:
    """Chance of each of ``n`` ascending scores to be the best of ``best_of``; shape ``[n]``.

    Raises:
        ValueError: more are drawn than there are.
    """
    if not 1 <= best_of <= n:
        raise ValueError(f"cannot draw {best_of} of {n} samples")
    weights = np.zeros(n)
    weights[-1] = best_of / n
    for i in range(n - 1, best_of - 1, -1):  # w(i) / w(i+1) = (i + 1 - N) / i, i counted from 1
        weights[i - 1] = weights[i] * (i + 1 - best_of) / i
    return weights


def expected_best(scores: np.ndarray, best_of: int) -> float:
    """Expected largest of ``best_of`` scores drawn without replacement."""
    return float(np.sort(scores) @ best_weights(len(scores), best_of))


def choice_weights(scores: np.ndarray, best_of: int) -> np.ndarray:
    """Chance of each response, in its own place, to be the chosen one; ties are drawn evenly."""
    order = np.argsort(scores, kind="stable")
    weights = best_weights(len(scores), best_of)
    _, tied = np.unique(scores[order], return_inverse=True)
    shared = (np.bincount(tied, weights) / np.bincount(tied))[tied]
    out = np.empty_like(shared)
    out[order] = shared
    return out


def best_of_n(
    rows: Iterable[Question], ns: Sequence[int], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Expected sentence score, in percent, of the best of N sampled answers.

    Responses without sentences, and those with a sentence that the annotator failed on, are left
    out. A question that has fewer than N usable samples after that enters with all it has and is
    counted under ``short``; one that has none is left out.

    Returns:
        ``macro``, ``micro``, ``ci95``, ``short``: each a dict from ``str(N)``. ``macro`` is the
        mean over questions of the expected best score, ``ci95`` its bootstrap interval over
        topics; ``micro`` pools the sentences of the chosen answers, weighted by their chance to
        be chosen. ``left_out``: responses; ``questions``, ``topics``: those that entered;
        ``questions_left_out``.

    Raises:
        UserError: no usable response, or an N that no question has samples for.
    """
    everything = read_responses(rows, "sampled")
    usable = everything[everything.scored]
    if not len(usable):
        raise UserError(f"none of {len(everything)} sampled answers is annotated without error")
    sampled = np.bincount(everything.question)
    if max(ns) > sampled.max():
        raise UserError(
            f"cannot tell the best of {max(ns)}: there are at most {sampled.max()} sampled answers "
            "to a question; sample more or ask for a smaller N"
        )
    result: dict[str, Any] = {"macro": {}, "micro": {}, "ci95": {}, "short": {}}
    questions = [usable[usable.question == number] for number in np.unique(usable.question)]
    topics = np.array([question.topic[0] for question in questions])
    for n in ns:
        key = str(n)
        best = np.array([_best(question, n) for question in questions])
        ones = np.ones(len(best))
        result["macro"][key] = 100 * float(best[:, 0].mean())
        result["micro"][key] = 100 * float(best[:, 1].sum() / best[:, 2].sum())
        result["ci95"][key] = percent_interval(topics, best[:, 0], ones, resamples, seed)
        result["short"][key] = sum(len(question) < n for question in questions)
    return result | {
        "left_out": len(everything) - len(usable),
        "questions": len(questions),
        "topics": len(set(topics.tolist())),
        "questions_left_out": len(set(everything.question.tolist())) - len(questions),
    }


def _best(question: Responses, n: int) -> tuple[float, float, float]:
    """Expected score, correct sentences and sentences of the chosen answer."""
    scores = question.correct / question.judged
    drawn = min(n, len(question))
    weights = choice_weights(scores, drawn)
    return expected_best(scores, drawn), weights @ question.correct, weights @ question.judged
