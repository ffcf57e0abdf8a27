"""The sentence score: the share of correct sentences, in percent (paper, section 3.1)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.f1_at_k import f1_at_k
from maskdpo_ray.evaluation.intervals import percent_interval, sums_by
from maskdpo_ray.evaluation.responses import read_responses
from maskdpo_ray.records import Question


def sentence_score(
    rows: Iterable[Question],
    decoding: str,
    *,
    k: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score of one system under one decoding.

    Sentences without facts count as correct. A response with a sentence that the annotator failed
    on has no score, nor has one without sentences: both are left out, as in best-of-N, and counted
    under ``unscored``; ``errors`` counts the sentences behind the first.

    Args:
        rows: annotated questions.
        decoding: ``greedy`` or ``sampled``.
        k: facts that a reader wants of an answer, for F1@K.
        resamples: bootstrap resamples of the topics.

    Returns:
        ``micro``: percent over all sentences; ``ci95``: its bootstrap interval over topics;
        ``macro``: mean over questions of the percent over all sentences of a question's
        responses; ``macro_ci95``: its interval, over the same draws; ``facts_micro``,
        ``facts_ci95``: as ``micro`` without the sentences that state no fact, None where all are
        such; ``f1_at_k``: as ``f1_at_k.f1_at_k`` makes it, None without ``k``; ``ok``,
        ``no_fact`` and their sum ``correct``, ``contradictory``, ``unverifiable`` and their sum
        ``incorrect``, ``errors``: sentences; ``responses``, ``unscored``, ``questions``,
        ``topics``: counts; ``mean_sentences``, ``mean_correct`` (correct sentences), ``mean_ok``
        (those with a fact), ``mean_tokens`` (None where texts came without tokens): per
        response, those without a score included; ``abstained``: responses that say they do not
        know, or nothing; ``unfinished_reasoning``: responses that never left their reasoning;
        ``respond_ratio``: percent of those that do not abstain. A model can raise its score by
        saying less: read the counts beside it.

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
    states = bool(scored.facts.any())

    def interval(of: np.ndarray, values: np.ndarray, weights: np.ndarray) -> list[float]:
        return percent_interval(of, values, weights, resamples, seed)

    return {
        "micro": 100 * float(scored.correct.sum() / scored.judged.sum()),
        "ci95": interval(scored.topic, scored.correct, scored.judged),
        "macro": 100 * float(by_question.mean()),
        "macro_ci95": interval(topics, by_question, np.ones(len(topics))),
        "facts_micro": 100 * float(scored.ok.sum() / scored.facts.sum()) if states else None,
        "facts_ci95": interval(scored.topic, scored.ok, scored.facts) if states else None,
        "f1_at_k": k and f1_at_k(everything, k, resamples=resamples, seed=seed),
        **{
            name: int(getattr(scored, name).sum())
            for name in ("correct", "ok", "no_fact", "incorrect", "contradictory", "unverifiable")
        },
        "errors": int(everything.errors.sum()),
        "responses": len(everything),
        "unscored": len(everything) - len(scored),
        "questions": len(by_question),
        "topics": len(set(scored.topic.tolist())),
        "mean_sentences": float(sentences.mean()),
        "mean_correct": float(everything.correct.mean()),
        "mean_ok": float(everything.ok.mean()),
        "mean_tokens": float(everything.tokens.mean()) if everything.tokens.any() else None,
        "abstained": int(everything.abstained.sum()),
        "unfinished_reasoning": int(everything.unfinished.sum()),
        "respond_ratio": 100 * float(1 - everything.abstained.mean()),
    }
