"""Scores over several seeds, and whether a difference between systems is one."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np

from maskdpo_ray.evaluation.factscore.score import answer_score
from maskdpo_ray.evaluation.intervals import NO_WIDTH, wilson
from maskdpo_ray.evaluation.responses import Responses, read_responses
from maskdpo_ray.experiments.published import has_figure
from maskdpo_ray.records import FactRow, Question

RESAMPLES = 2000
SEEDS = 3  # of fewer trainings nobody sees how far apart two of the same kind end


@dataclass(frozen=True)
class Counts:
    """What became of the test questions and of their greedy answers.

    Attributes:
        answers: that were examined.
        scored: of these, have a score; the others state nothing, or have a sentence that the
            examiner failed on, or abstain where that gives no score.
        abstained: of these, say that they do not know.
        rejected: questions without an examined answer, by the reason.
    """

    answers: int
    scored: int
    abstained: int
    rejected: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """For messages."""
        rejected = [f"{n} questions rejected ({reason})" for reason, n in self.rejected.items()]
        answers = f"{self.answers} answers, of which {self.abstained} abstain"
        return "; ".join([answers, *rejected])


@dataclass(frozen=True)
class Outcome:
    """What one system's greedy answers came to, in one seed; or anything else counted by topic.

    Attributes:
        parts: topic -> numerator and denominator of the score.
        sentences: a response; None where nobody counts them.
        correct: correct sentences a response (of facts, the same share of its sentences).
        counts: of the answers; None where it is not of answers.
        not_scored: why there is no score.
    """

    parts: dict[str, tuple[float, float]]
    sentences: float | None = None
    correct: float | None = None
    counts: Counts | None = None
    not_scored: str | None = None

    @property
    def score(self) -> float:
        """In percent."""
        numerator, denominator = np.sum(list(self.parts.values()), axis=0)
        return 100 * float(numerator / denominator)


Parts = Callable[[Responses], tuple[np.ndarray, np.ndarray]]


def sentence_parts(responses: Responses) -> tuple[np.ndarray, np.ndarray]:
    """Correct sentences, and sentences of every response (paper, section 3.1)."""
    return responses.correct, responses.judged


def fact_parts(responses: Responses) -> tuple[np.ndarray, np.ndarray]:
    """FActScore where every sentence states one fact or none: of every response the share of its
    facts that are supported, and whether it states any."""
    facts = responses.judged - responses.no_fact
    supported = responses.correct - responses.no_fact
    return supported / np.maximum(facts, 1), facts > 0


def outcome(
    rows: Iterable[Question],
    parts: Parts = sentence_parts,
    rejected: Mapping[str, int] | None = None,
) -> Outcome:
    """Of annotated answers to the test questions. Answers without a score are left out, as in
    ``evaluation.sentence_score``.

    Args:
        rejected: questions that are not among the rows, by the reason.
    """
    topics: dict[str, list[Question]] = defaultdict(list)
    for row in rows:
        topics[row["topic"]].append(row)
    examined = {topic: read_responses(of, "greedy") for topic, of in sorted(topics.items())}
    usable = {topic: of[of.scored] for topic, of in examined.items()}
    shares = {topic: parts(of) for topic, of in usable.items()}
    counts = Counts(
        answers=sum(map(len, examined.values())),
        scored=sum(int(np.count_nonzero(under)) for _, under in shares.values()),
        abstained=sum(int(of.abstained.sum()) for of in examined.values()),
        rejected=dict(rejected or {}),
    )
    if not counts.scored:
        return Outcome({}, counts=counts, not_scored=f"no greedy answer has a score: {counts}")
    answers = sum(map(len, usable.values()))
    return Outcome(
        {
            topic: (float(over.sum()), float(under.sum()))
            for topic, (over, under) in shares.items()
            if under.any()
        },
        sum(float(of.judged.sum()) for of in usable.values()) / answers,
        sum(float(of.correct.sum()) for of in usable.values()) / answers,
        counts,
    )


def fact_outcome(rows: Iterable[FactRow], rejected: Mapping[str, int] | None = None) -> Outcome:
    """FActScore without length penalty of answers that were examined fact by fact.

    Args:
        rejected: questions that are not among the rows, by the reason.
    """
    parts: dict[str, tuple[float, float]] = {}
    answers, scored, abstained, sentences = 0, 0, 0, 0
    for row in sorted(rows, key=lambda row: row["id"]):
        for answer in row["answers"]:
            if answer["decoding"] != "greedy":
                continue
            answers, abstained = answers + 1, abstained + answer["abstained"]
            if (found := answer_score(answer)) is None:
                continue
            of_topic = parts.get(row["topic"], (0.0, 0.0))
            parts[row["topic"]] = of_topic[0] + found, of_topic[1] + 1
            scored, sentences = scored + 1, sentences + len(answer["sentences"])
    counts = Counts(answers, scored, abstained, dict(rejected or {}))
    if not scored:
        return Outcome({}, counts=counts, not_scored=f"no greedy answer has a FActScore: {counts}")
    mean = sentences / scored
    share = sum(numerator for numerator, _ in parts.values()) / scored
    return Outcome(parts, mean, mean * share, counts)


def score(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Mean over the seeds, its 95 % interval over topics, and beside it where they are counted the
    lengths, and what became of the answers of all seeds.

    ``score`` and ``ci95`` are None, and ``not_scored`` says why, where a seed has no score; of one
    topic ``ci95`` alone is None.
    """
    found = _over_seeds([[each] for each in outcomes], lambda scores: scores[0])
    del found["topics_left_out"]  # of a comparison
    if found["ci95"]:
        low, high = found["ci95"]
        found["ci95"] = [max(0.0, low), min(100.0, high)]
    told = {"score": found.pop("points"), **found}
    if all(each.sentences is not None for each in outcomes):
        told["sentences"] = float(np.mean([each.sentences for each in outcomes]))
        told["correct_sentences"] = float(np.mean([each.correct for each in outcomes]))
    if counts := [each.counts for each in outcomes if each.counts]:
        told |= _together(counts)
    return told


def _together(counts: Sequence[Counts]) -> dict[str, Any]:
    """Of several seeds; ``respond_ratio``: percent of the answers that do not abstain."""
    answers, abstained = (sum(getattr(c, k) for c in counts) for k in ("answers", "abstained"))
    rejected = sum((Counter(each.rejected) for each in counts), Counter())
    return {
        "answers": answers,
        "scored": sum(each.scored for each in counts),
        "abstained": abstained,
        "respond_ratio": 100 * (1 - abstained / answers) if answers else None,
        "unknown_topics": rejected["unknown_topic"],
        "rejected": dict(rejected),
    }


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

    Scores are of the topics that all systems of a seed have one for (``topics``, by name;
    ``topics_left_out`` are those that only some have one for). The interval is a Bayesian
    bootstrap (Rubin 1981): a topic weighs the same for all systems, and in every seed that has it.
    So it is drawn once where seeds share their questions, and worlds, which have topics of their
    own, are drawn apart; the seeds themselves are not drawn. Of one topic there is no interval
    (``ci95`` is None). Where no score of any seed differs between topics, so that no resample
    differs either, Wilson's interval of each score takes its place (``evaluation/intervals.py``);
    of a function of several, the root of the sum of squares of how far theirs reach (Zou and
    Donner 2008).
    """
    shared = [sorted(set.intersection(*(set(each.parts) for each in of_seed))) for of_seed in seeds]
    together, some = set().union(*shared), set()
    for outcomes in seeds:
        some.update(*(each.parts for each in outcomes))
    counted = {"topics": len(together), "topics_left_out": len(some - together)}
    if not all(shared):
        reasons = [each.not_scored for outcomes in seeds for each in outcomes if each.not_scored]
        reason = next(iter(reasons), "no topic has a score from all that is compared")
        return {"points": None, "by_seed": [], "ci95": None, **counted, "not_scored": reason}
    by_seed, means, reach = [], np.zeros(RESAMPLES), 0.0
    for topics, outcomes in zip(shared, seeds, strict=True):
        parts = np.array([[each.parts[topic] for topic in topics] for each in outcomes])
        by_seed.append(float(of(_percent(parts.sum(axis=1)))))
        weights = np.stack([_weights(topic) for topic in topics], axis=1)
        means += of(_percent(weights @ parts)) / len(seeds)
        reach += _reach(parts) / len(seeds)
    points = float(np.mean(by_seed))
    interval: list[float] | None = [float(edge) for edge in np.quantile(means, (0.025, 0.975))]
    if len(together) < 2:
        interval = None
    elif reach and np.ptp(means) < NO_WIDTH:
        interval = [points - reach, points + reach]
    return {"points": points, "by_seed": by_seed, "ci95": interval, **counted}


def _reach(parts: np.ndarray) -> float:
    """How far Wilson's intervals of scores reach together, in percent; 0 where one differs between
    topics.

    Args:
        parts: numerators and denominators, ``[outcomes, topics, 2]``.
    """
    if np.ptp(parts[..., 0] / parts[..., 1], axis=1).max() > NO_WIDTH:
        return 0.0
    shares = parts[..., 0].sum(axis=1) / parts[..., 1].sum(axis=1)
    edges = [(share, *wilson(float(share), parts.shape[1])) for share in shares]
    return 100 * sqrt(sum(max(share - low, high - share) ** 2 for share, low, high in edges))


def _percent(parts: np.ndarray) -> np.ndarray:
    """Scores of numerators and denominators, ``[..., 2]``."""
    return 100 * parts[..., 0] / parts[..., 1]


@lru_cache(maxsize=1024)
def _weights(topic: str) -> np.ndarray:
    """The topic's weight in every resample, ``[RESAMPLES]``, by its name alone."""
    name = hashlib.sha256(topic.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(name[:8])).standard_exponential(RESAMPLES)


def claim(
    table: int | str, text: str, found: dict[str, Any], paper: str, *, trained: bool = True
) -> dict[str, Any]:
    """A claim that something is larger: reproduced where the whole interval is above zero and every
    seed says so. The interval is over topics: it does not know how far one training may end from
    another, which a seed against the others shows. So of fewer than ``SEEDS`` there is no verdict,
    only the figures.

    Args:
        trained: it compares what came out of different trainings, or of one with what was not
            trained.
    """
    if reason := found.get("not_scored"):
        return not_testable(table, text, reason, paper)
    if found["ci95"] is None:
        return not_testable(table, text, "one topic tells nothing about others", paper)
    low, _ = found["ci95"]
    seeds = found["by_seed"]
    entry = {
        "table": table,
        "claim": text,
        "verdict": "reproduced" if low > 0 and min(seeds) > 0 else "not reproduced",
        "ours": round(found["points"], 2),
        "by_seed": [round(each, 2) for each in seeds],
        "interval": [round(edge, 2) for edge in found["ci95"]],
        "topics": found["topics"],
        "topics_left_out": found["topics_left_out"],
        "paper": paper,
    }
    if trained and len(seeds) < SEEDS:
        reason = (
            f"{len(seeds)} of at least {SEEDS} seeds: how far one training ends from another is "
            "not seen; give more --seeds"
        )
        return entry | {"verdict": "not testable", "reason": reason}
    return entry


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


def verdict_counts(claims: Sequence[dict[str, Any]]) -> str:
    """How many claims there are and what is found of them: those that stand beside a figure of the
    paper apart from the others."""
    told = [each for each in claims if has_figure(each["paper"])]
    others = [each for each in claims if not has_figure(each["paper"])]
    groups = (("claims with a published figure", told), ("without one", others))
    return "; ".join(
        f"{len(of)} {what}: "
        + ", ".join(f"{n} {verdict}" for verdict, n in Counter(c["verdict"] for c in of).items())
        for what, of in groups
        if of
    )
