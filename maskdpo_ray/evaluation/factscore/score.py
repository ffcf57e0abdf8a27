"""FActScore of examined answers, with and without length penalty (Min et al., 2023, section 3)."""

from collections.abc import Iterable, Sequence
from math import exp
from typing import Any

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.intervals import percent_interval
from maskdpo_ray.records import ERROR_VERDICT, ExaminedAnswer, FactRow


def precision(verdicts: Sequence[str]) -> float:
    """The share of supported facts, from 0 to 1.

    Raises:
        ValueError: there is no fact, or a verdict that decides nothing.
    """
    if not verdicts or not set(verdicts) <= {"supported", "not_supported"}:
        raise ValueError(f"no score of the verdicts {list(verdicts)}")
    return sum(verdict == "supported" for verdict in verdicts) / len(verdicts)


def length_penalty(facts: int, gamma: float) -> float:
    """What an answer of few facts is multiplied by: exp(1 - gamma / facts) up to gamma facts."""
    return exp(1 - gamma / facts) if facts <= gamma else 1.0


def factscore(
    rows: Iterable[FactRow],
    decoding: str = "greedy",
    *,
    gamma: float = 10,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score of one system's examined answers of one decoding.

    Scored are the answers that did not abstain, state at least one fact and were examined without
    error; every other one is counted under its reason.

    Args:
        gamma: facts below which the penalty sets in.
        resamples: bootstrap resamples of the topics.

    Returns:
        ``macro``: mean over scored answers of the percent of supported facts, ``ci95`` its
        bootstrap interval over topics; ``penalised``, ``penalised_ci95``: the same with each
        answer's length penalty; ``micro``: percent over all facts of scored answers;
        ``respond_ratio``: percent of answers that did not abstain; ``responses``, and of them
        ``abstained``, ``unfinished_reasoning`` (it never came to an answer), ``without_facts``,
        ``errors`` (the model failed on a sentence or a fact) and ``scored``, which add up;
        ``supported``, ``not_supported``: facts of scored answers; ``mean_supported``,
        ``mean_not_supported``: per scored answer; ``topics``: of scored ones.

    Raises:
        UserError: no answer can be scored; says why.
    """
    topics: dict[str, int] = {}
    table = []
    reasons = ("abstained", "unfinished_reasoning", "without_facts", "errors")
    counts = dict.fromkeys(("responses", *reasons), 0)
    for row in rows:
        for answer in row["answers"]:
            if answer["decoding"] != decoding:
                continue
            counts["responses"] += 1
            verdicts = verdicts_of(answer)
            if reason := _unscored(answer, verdicts):
                counts[reason] += 1
                continue
            topic = topics.setdefault(row["topic"], len(topics))
            score, penalty = precision(verdicts), length_penalty(len(verdicts), gamma)
            supported = verdicts.count("supported")
            table.append((topic, score, score * penalty, supported, len(verdicts)))
    if not table:
        raise UserError(
            f"no {decoding} answer has a FActScore: of {counts['responses']} answers "
            f"{counts['abstained']} abstain, {counts['unfinished_reasoning']} never left their "
            f"reasoning, {counts['without_facts']} state no fact and {counts['errors']} could not "
            "be examined"
        )
    topic, score, penalised, supported, facts = np.array(table).T

    def interval(values: np.ndarray) -> list[float]:
        return percent_interval(topic, values, np.ones(len(topic)), resamples, seed)

    return {
        "macro": 100 * float(score.mean()),
        "ci95": interval(score),
        "penalised": 100 * float(penalised.mean()),
        "penalised_ci95": interval(penalised),
        "micro": 100 * float(supported.sum() / facts.sum()),
        "respond_ratio": 100 * (1 - counts["abstained"] / counts["responses"]),
        **counts,
        "scored": len(table),
        "supported": int(supported.sum()),
        "not_supported": int((facts - supported).sum()),
        "mean_supported": float(supported.mean()),
        "mean_not_supported": float((facts - supported).mean()),
        "topics": len(topics),
    }


def answer_score(answer: ExaminedAnswer) -> float | None:
    """The share of one answer's facts that are supported; None where it has no score."""
    verdicts = verdicts_of(answer)
    return None if _unscored(answer, verdicts) else precision(verdicts)


def verdicts_of(answer: ExaminedAnswer) -> list[str]:
    """The verdicts of an answer's facts, in order."""
    return [fact["verdict"] for sentence in answer["sentences"] for fact in sentence["facts"]]


def _unscored(answer: ExaminedAnswer, verdicts: list[str]) -> str | None:
    """What an answer without a score counts as."""
    if answer["abstained"]:
        return "abstained"
    if not answer["response"]:  # one without a word abstains, unless it had more to say
        return "unfinished_reasoning"
    if ERROR_VERDICT in verdicts or any(sentence["error"] for sentence in answer["sentences"]):
        return "errors"
    return None if verdicts else "without_facts"
