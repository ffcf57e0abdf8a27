"""The sentence score: the share of correct sentences, in percent (paper, section 3.1)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.intervals import ratio_interval, sums_by
from maskdpo_ray.evaluation.responses import read_responses
from maskdpo_ray.records import Question


def sentence_score(
    rows: Iterable[Question], decoding: str, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Score of one system under one decoding.

    Sentences without facts count as correct. A response with a sentence that the annotator failed
    on has no score, nor has one without sentences: both are left out, as in best-of-N, and counted
    under ``unscored``; ``errors`` counts the sentences behind the first.

    Args:
        rows: annotated questions.
        decoding: ``greedy`` or ``sampled``.
        resamples: bootstrap resamples of the topics.

    Returns:
        ``micro``: percent over all sentences; ``ci95``: its bootstrap interval over topics;
        ``macro``: mean over questions of the percent over all sentences of a question's
        responses; ``macro_ci95``: its interval, over the same draws; ``correct``, ``incorrect``,
        ``no_fact``, ``errors``: sentences; ``responses``, ``unscored``, ``questions``,
        ``topics``: counts; ``mean_sentences``, ``mean_correct`` (correct sentences),
        ``mean_tokens`` (None where texts came without tokens): per response, those without a
        score included; ``abstained``: responses that say they do not know, or nothing;
        ``respond_ratio``: percent of the others. A model can raise its score by saying less: read
        the counts beside it.

    Raises:
        UserError: no response has a score.
    """
    everything = read_responses(rows, decoding)
    scored = everything[everything.scored]
    if not len(scored):
        raise UserError(
            f"no {decoding} answer could be scored: {len(everything)} answers, "
            f"{everything.errors.sum()} sentences that the annotator failed on; "
            "see the details of their verdicts"
        )
    by_question = sums_by(scored.question, scored.correct) / sums_by(scored.question, scored.judged)
    topics = scored.topic[np.unique(scored.question, return_index=True)[1]]
    sentences = everything.judged + everything.errors
    return {
        "micro": 100 * float(scored.correct.sum() / scored.judged.sum()),
        "ci95": _interval(scored.topic, scored.correct, scored.judged, resamples, seed),
        "macro": 100 * float(by_question.mean()),
        "macro_ci95": _interval(topics, by_question, np.ones(len(topics)), resamples, seed),
        "correct": int(scored.correct.sum()),
        "incorrect": int(scored.incorrect.sum()),
        "no_fact": int(scored.no_fact.sum()),
        "errors": int(everything.errors.sum()),
        "responses": len(everything),
        "unscored": len(everything) - len(scored),
        "questions": len(by_question),
        "topics": len(set(scored.topic.tolist())),
        "mean_sentences": float(sentences.mean()),
        "mean_correct": float(everything.correct.mean()),
        "mean_tokens": float(everything.tokens.mean()) if everything.tokens.any() else None,
        "abstained": int(everything.abstained.sum()),
        "respond_ratio": 100 * float(1 - everything.abstained.mean()),
    }


def _interval(
    topics: np.ndarray, values: np.ndarray, weights: np.ndarray, resamples: int, seed: int
) -> list[float]:
    """95 % interval, in percent, of ``sum(values) / sum(weights)`` over drawn topics."""
    of_topics = sums_by(topics, values), sums_by(topics, weights)
    return [100 * edge for edge in ratio_interval(*of_topics, resamples, seed)]
