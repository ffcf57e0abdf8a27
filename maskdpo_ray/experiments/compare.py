"""Scores over several seeds, and whether a difference between systems is one."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.factscore.score import answer_score
from maskdpo_ray.evaluation.responses import Responses, read_responses
from maskdpo_ray.records import FactRow, Question

RESAMPLES = 2000


@dataclass(frozen=True)
class Outcome:
    """What one system's greedy answers came to, in one seed; or anything else counted by topic.

    Attributes:
        parts: topic -> numerator and denominator of the score.
        sentences: a response; None where nobody counts them.
        correct: correct sentences a response (of facts, the same share of its sentences).
    """

    parts: dict[str, tuple[float, float]]
    sentences: float | None = None
    correct: float | None = None

    @property
    def score(self) -> float:
        """In percent."""
        numerator, denominator = np.sum(list(self.parts.values()), axis=0)
        return 100 * float(numerator / denominator)


def sentence_parts(responses: Responses) -> tuple[float, float]:
    """Correct sentences, and sentences (paper, section 3.1)."""
    return float(responses.correct.sum()), float(responses.judged.sum())


def fact_parts(responses: Responses) -> tuple[float, float]:
    """FActScore where every sentence states one fact or none: shares of supported facts, and the
    responses that state any."""
    facts = responses.judged - responses.no_fact
    stating = facts > 0
    supported = (responses.correct - responses.no_fact)[stating]
    return float((supported / facts[stating]).sum()), float(stating.sum())


def outcome(
    rows: Iterable[Question],
    parts: Callable[[Responses], tuple[float, float]] = sentence_parts,
) -> Outcome:
    """Of annotated answers to the test questions. Answers without a score are left out, as in
    ``evaluation.sentence_score``.

    Raises:
        UserError: no answer has a score.
    """
    topics: dict[str, list[Question]] = defaultdict(list)
    for row in rows:
        topics[row["topic"]].append(row)
    counted = {topic: read_responses(of, "greedy") for topic, of in sorted(topics.items())}
    counted = {topic: of[of.scored] for topic, of in counted.items() if of.scored.any()}
    answers = sum(map(len, counted.values()))
    found = {topic: of_topic for topic, of in counted.items() if (of_topic := parts(of))[1]}
    if not found:
        raise UserError(
            f"no greedy answer to {sum(map(len, topics.values()))} questions has a score: see the "
            "details of their verdicts"
        )
    return Outcome(
        found,
        sum(float(of.judged.sum()) for of in counted.values()) / answers,
        sum(float(of.correct.sum()) for of in counted.values()) / answers,
    )


def fact_outcome(rows: Iterable[FactRow]) -> Outcome:
    """FActScore without length penalty of answers that were examined fact by fact.

    Raises:
        UserError: no answer has one.
    """
    parts: dict[str, tuple[float, float]] = {}
    sentences, answers = 0, 0
    for row in sorted(rows, key=lambda row: row["id"]):
        for answer in row["answers"]:
            found = answer_score(answer)
            if answer["decoding"] != "greedy" or found is None:
                continue
            of_topic = parts.get(row["topic"], (0.0, 0.0))
            parts[row["topic"]] = of_topic[0] + found, of_topic[1] + 1
            sentences, answers = sentences + len(answer["sentences"]), answers + 1
    if not answers:
        raise UserError("no greedy answer has a FActScore: all abstain, state nothing or failed")
    mean = sentences / answers
    share = sum(numerator for numerator, _ in parts.values()) / answers
    return Outcome(parts, mean, mean * share)


def score(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Mean over the seeds, its 95 % interval over topics, and the lengths beside it where they are
    counted."""
    found = _over_seeds([[each] for each in outcomes], lambda scores: scores[0])
    told = {"score": found.pop("points"), **found}
    if all(each.sentences is not None for each in outcomes):
        told["sentences"] = float(np.mean([each.sentences for each in outcomes]))
        told["correct_sentences"] = float(np.mean([each.correct for each in outcomes]))
    return told


def difference(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Any]:
    """Points that ``first`` is ahead of ``second``, mean over the seeds.

    Both answered the same questions in a seed, so topics are drawn for both together.
    """
    return _over_seeds(list(zip(first, second, strict=True)), lambda scores: scores[0] - scores[1])


Gap = tuple[Outcome, Outcome]


def gap_difference(gap: Sequence[Gap], other: Sequence[Gap]) -> dict[str, Any]:
    """How much larger the gap between two systems is than that between two others."""
    return _of_gaps(gap, other, lambda one, two: one - two)


def gap_over_noise(gap: Sequence[Gap], noise: Sequence[Gap]) -> dict[str, Any]:
    """How far the gap between two systems is above the *size* of one that has no cause: whichever
    side of that one is ahead, so far apart two systems come out by chance."""
    return _of_gaps(gap, noise, lambda one, two: one - np.abs(two))


def _of_gaps(one: Sequence[Gap], two: Sequence[Gap], of: Callable[..., Any]) -> dict[str, Any]:
    return _over_seeds(
        [(*first, *second) for first, second in zip(one, two, strict=True)],
        lambda scores: of(scores[0] - scores[1], scores[2] - scores[3]),
    )


def _over_seeds(
    seeds: Sequence[Sequence[Outcome]], of: Callable[[np.ndarray], Any]
) -> dict[str, Any]:
    """A function of a seed's scores: its mean over the seeds, each of them, and the 95 % percentile
    interval of that mean over topics.

    Scores are of the topics that all systems of a seed have one for. The interval is a Bayesian
    bootstrap (Rubin 1981): a topic weighs the same for all systems, and in every seed that has it.
    So it is drawn once where seeds share their questions, and worlds, which have topics of their
    own, are drawn apart; the seeds themselves are not drawn.
    """
    by_seed, means = [], np.zeros(RESAMPLES)
    for outcomes in seeds:
        topics = sorted(set.intersection(*(set(each.parts) for each in outcomes)))
        if not topics:
            raise UserError("no topic has a score from all of the systems that are compared")
        parts = np.array([[each.parts[topic] for topic in topics] for each in outcomes])
        by_seed.append(float(of(_percent(parts.sum(axis=1)))))
        weights = np.stack([_weights(topic) for topic in topics], axis=1)
        means += of(_percent(weights @ parts)) / len(seeds)
    interval = [float(edge) for edge in np.quantile(means, (0.025, 0.975))]
    return {"points": float(np.mean(by_seed)), "by_seed": by_seed, "ci95": interval}


def _percent(parts: np.ndarray) -> np.ndarray:
    """Scores of numerators and denominators, ``[..., 2]``."""
    return 100 * parts[..., 0] / parts[..., 1]


@lru_cache(maxsize=1024)
def _weights(topic: str) -> np.ndarray:
    """The topic's weight in every resample, ``[RESAMPLES]``, by its name alone."""
    name = hashlib.sha256(topic.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(name[:8])).standard_exponential(RESAMPLES)


def claim(table: int | str, text: str, found: dict[str, Any], paper: str) -> dict[str, Any]:
    """A claim that something is larger: reproduced where the whole interval is above zero and every
    seed says so. The interval is over topics: it does not know how far one training may end from
    another, which a seed against the others shows."""
    low, _ = found["ci95"]
    agreed = low > 0 and min(found["by_seed"]) > 0
    return {
        "table": table,
        "claim": text,
        "verdict": "reproduced" if agreed else "not reproduced",
        "ours": round(found["points"], 2),
        "by_seed": [round(each, 2) for each in found["by_seed"]],
        "interval": [round(edge, 2) for edge in found["ci95"]],
        "paper": paper,
    }


def not_testable(table: int | str, text: str, reason: str, paper: str) -> dict[str, Any]:
    """A claim that the questions or models at hand can say nothing about."""
    return {
        "table": table,
        "claim": text,
        "verdict": "not testable",
        "ours": None,
        "interval": None,
        "reason": reason,
        "paper": paper,
    }
