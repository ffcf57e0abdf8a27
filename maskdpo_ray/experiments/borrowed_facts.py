"""The paper's hypothesis (equations 7 and 8) looked at itself: whether what a model gets wrong
about a topic belongs to topics that lie near it in the model's own embedding."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maskdpo_ray.experiments.compare import Outcome
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
) -> list[Outcome]:
    """How often a wrong sentence about topic v states a fact of topic u, by how far u is from v.

    Args:
        statements: topic v and what the sentence states, for every wrong sentence.
        facts: of every topic u.
        topics: in the order of ``vectors``.
        vectors: ``[topics, dimensions]``, rows of length 1.
        bins: parts of equal size of the other topics, from the nearest to the farthest of v.

    Returns:
        For each part, of all (wrong sentence, topic u) those where u has the stated fact, by v.
    """
    place = {topic: number for number, topic in enumerate(topics)}
    holders: dict[Statement, set[int]] = {}
    for topic in topics:
        for fact in facts[topic]:
            holders.setdefault(fact, set()).add(place[topic])
    stated_of: dict[str, list[set[Statement]]] = {}
    for topic, stated in statements:
        if topic in place and stated:
            stated_of.setdefault(topic, []).append(stated)
    parts: list[dict[str, tuple[float, float]]] = [{} for _ in range(bins)]
    for topic, sentences in stated_of.items():
        v = place[topic]
        part = _parts_from(v, vectors, bins)
        sizes = np.bincount(np.delete(part, v), minlength=bins)
        hits = np.zeros(bins)
        for stated in sentences:
            having = set().union(*(holders.get(fact, ()) for fact in stated)) - {v}
            hits += np.bincount(part[sorted(having)], minlength=bins)
        for n in range(bins):
            parts[n][topic] = float(hits[n]), float(len(sentences) * sizes[n])
    return [Outcome(of) for of in parts]


def _parts_from(v: int, vectors: np.ndarray, bins: int) -> np.ndarray:
    """The part of every topic as seen from topic v, whose own means nothing."""
    distance = 1 - vectors @ vectors[v]
    distance[v] = -1  # itself comes first and is left out
    rank = np.empty(len(vectors), dtype=int)
    rank[np.argsort(distance, kind="stable")] = np.arange(len(vectors))
    part = (rank - 1) * bins // (len(vectors) - 1)
    part[v] = 0
    return part
