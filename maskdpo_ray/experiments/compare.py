"""Scores over several seeds, and whether a difference between systems is one."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskdpo_ray.evaluation.factscore.score import answer_score
from maskdpo_ray.evaluation.responses import Responses, read_responses
from maskdpo_ray.records import FactRow, Question

RESAMPLES = 2000


@dataclass(frozen=True)
class Outcome:
    """What one system's greedy answers came to, in one seed; or anything else counted by topic.

    Attributes:
        parts: topic -> numerator and denominator of the score.
        sentences: a response.
        correct: correct sentences a response (of facts, the same share of its sentences).
    """

    parts: dict[str, tuple[float, float]]
    sentences: float = 0.0
    correct: float = 0.0

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
    ``evaluation.sentence_score``."""
    topics: dict[str, list[Question]] = defaultdict(list)
    for row in rows:
        topics[row["topic"]].append(row)
    counted = {topic: read_responses(of, "greedy") for topic, of in sorted(topics.items())}
    counted = {topic: of[of.scored] for topic, of in counted.items() if of.scored.any()}
    answers = sum(map(len, counted.values()))
    return Outcome(
        {topic: found for topic, of in counted.items() if (found := parts(of))[1]},
        sum(float(of.judged.sum()) for of in counted.values()) / answers,
        sum(float(of.correct.sum()) for of in counted.values()) / answers,
    )


def fact_outcome(rows: Iterable[FactRow]) -> Outcome:
    """FActScore without length penalty of answers that were examined fact by fact."""
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
    mean = sentences / answers
    share = sum(numerator for numerator, _ in parts.values()) / answers
    return Outcome(parts, mean, mean * share)


def score(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Mean over the seeds, its 95 % interval over topics, and the lengths beside it."""
    found = _over_seeds([[each] for each in outcomes], lambda scores: scores[0])
    return {
        "score": found.pop("points"),
        **found,
        "sentences": float(np.mean([each.sentences for each in outcomes])),
        "correct_sentences": float(np.mean([each.correct for each in outcomes])),
    }


def difference(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Any]:
    """Points that ``first`` is ahead of ``second``, mean over the seeds.

    Both answered the same questions in a seed, so topics are drawn for both together.
    """
    return _over_seeds(list(zip(first, second, strict=True)), lambda scores: scores[0] - scores[1])


def gap_difference(
    gap: Sequence[tuple[Outcome, Outcome]], floor: Sequence[tuple[Outcome, Outcome]]
) -> dict[str, Any]:
    """How much larger the gap between two systems is than that between two others."""
    return _over_seeds(
        [(*ours, *theirs) for ours, theirs in zip(gap, floor, strict=True)],
        lambda scores: (scores[0] - scores[1]) - (scores[2] - scores[3]),
    )


def _over_seeds(seeds: Sequence[Sequence[Outcome]], of: Callable[[list], Any]) -> dict[str, Any]:
    """A function of a seed's scores: its mean over the seeds, each of them, and the interval."""
    by_seed = [float(of([each.score for each in outcomes])) for outcomes in seeds]
    return {"points": float(np.mean(by_seed)), "by_seed": by_seed, "ci95": _interval(seeds, of)}


def _interval(seeds: Sequence[Sequence[Outcome]], of: Callable[[list], Any]) -> list[float]:
    """95 % percentile interval of the mean over seeds of a function of the scores, over topics
    drawn within every seed. A world has its own topics, so seeds are not drawn themselves."""
    means = np.zeros(RESAMPLES)
    for number, outcomes in enumerate(seeds):
        topics = sorted(set.intersection(*(set(each.parts) for each in outcomes)))
        random = np.random.default_rng(number)
        drawn = random.multinomial(
            len(topics), np.full(len(topics), 1 / len(topics)), size=RESAMPLES
        )
        scores = []
        for each in outcomes:
            parts = np.array([each.parts[topic] for topic in topics])
            totals = drawn @ parts
            scores.append(100 * totals[:, 0] / totals[:, 1])
        means += of(scores) / len(seeds)
    return [float(edge) for edge in np.quantile(means, (0.025, 0.975))]


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
    """A claim that the closed world can say nothing about."""
    return {
        "table": table,
        "claim": text,
        "verdict": "not testable",
        "ours": None,
        "interval": None,
        "reason": reason,
        "paper": paper,
    }
