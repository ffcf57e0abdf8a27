"""The paper's hypothesis (equations 7 and 8) looked at itself: whether what a model gets wrong
about a topic belongs to topics that lie near it in the model's own embedding."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maskdpo_ray.records import INCORRECT_VERDICTS, Question
from maskdpo_ray.world.annotator import readings
from maskdpo_ray.world.facts import Facts

Statement = tuple[str, Any]  # what is stated, e.g. ("award", "Heron"), or ("entity", "Heron")
CAPITALISED = re.compile(r"\b[A-Z][\w'-]+(?: [A-Z][\w'-]+)*|\b\d{3,4}\b")


def wrong_sentences(rows: Iterable[Question]) -> list[tuple[str, str]]:
    """Topic and text of every sentence that is wrong."""
    return [
        (row["topic"], candidate["response"][sentence["start"] : sentence["end"]].strip())
        for row in rows
        for candidate in row["candidates"]
        for sentence in candidate["sentences"]
        if sentence["verdict"] in INCORRECT_VERDICTS
    ]


def stated_in_world(sentence: str) -> set[Statement]:
    """The fact that a sentence of the closed world states, of whomever."""
    for kind, pattern in readings():
        if (match := pattern.fullmatch(sentence)) and kind:
            return {(kind, match["value"])}
    return set()


def facts_in_world(facts: Facts) -> dict[str, set[Statement]]:
    return {topic: set(of.items()) for topic, of in facts.items()}


def stated_elsewhere(topic: str, sentence: str) -> set[Statement]:
    """Names and years in a sentence, but for the topic's own: for real text, a rough match."""
    own = set(topic.split())
    found = {match for match in CAPITALISED.findall(sentence) if not own & set(match.split())}
    return {("entity", name) for name in found if len(name) > 3}


def by_distance(
    statements: Sequence[tuple[str, set[Statement]]],
    facts: Mapping[str, set[Statement]],
    topics: Sequence[str],
    vectors: np.ndarray,
    bins: int = 5,
    resamples: int = 2000,
) -> dict[str, Any]:
    """How often a wrong sentence about topic v states a fact of topic u, by how far u is from v.

    Args:
        statements: topic v and what the sentence states, for every wrong sentence.
        facts: of every topic u.
        topics: in the order of ``vectors``.
        vectors: ``[topics, dimensions]``, rows of length 1.
        bins: parts of equal size of the other topics, from the nearest to the farthest of v.

    Returns:
        ``share``: for each part, percent of (wrong sentence, topic u) where u has the stated fact;
        ``points``: the nearest part's share less the farthest's, with ``ci95`` over topics v
        and ``by_seed`` (this one); ``sentences``: wrong sentences that state something.
    """
    place = {topic: number for number, topic in enumerate(topics)}
    hits, pairs = np.zeros((len(topics), bins)), np.zeros((len(topics), bins))
    holders: dict[Statement, list[int]] = {}
    for topic in topics:
        for fact in facts[topic]:
            holders.setdefault(fact, []).append(place[topic])
    part_of: dict[int, np.ndarray] = {}
    stating = 0
    for topic, stated in statements:
        if topic not in place or not stated:
            continue
        stating += 1
        v = place[topic]
        if v not in part_of:
            distance = 1 - vectors @ vectors[v]
            distance[v] = -1  # itself comes first and is left out
            rank = np.empty(len(topics), dtype=int)
            rank[np.argsort(distance, kind="stable")] = np.arange(len(topics))
            part_of[v] = (rank - 1) * bins // (len(topics) - 1)
        parts = part_of[v]
        others = np.delete(parts, v)
        pairs[v] += np.bincount(others, minlength=bins)
        having = {u for fact in stated for u in holders.get(fact, ())} - {v}
        hits[v] += np.bincount(parts[list(having)], minlength=bins) if having else 0
    used = pairs.sum(axis=1) > 0
    hits, pairs = hits[used], pairs[used]
    random = np.random.default_rng(0)
    drawn = random.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), size=resamples)
    shares = 100 * (drawn @ hits) / (drawn @ pairs)
    share = 100 * hits.sum(axis=0) / pairs.sum(axis=0)
    spread = shares[:, 0] - shares[:, -1]
    return {
        "share": share.tolist(),
        "points": float(share[0] - share[-1]),
        "by_seed": [float(share[0] - share[-1])],
        "ci95": [float(edge) for edge in np.quantile(spread, (0.025, 0.975))],
        "sentences": stating,
    }
