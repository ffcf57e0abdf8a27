"""Parts of the training questions, by seed: a smaller part lies within a larger one."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from maskdpo_ray.records import Pair, Question


def place(seed: int, *names: object) -> bytes:
    """Where something comes in a random order that depends on the seed and its name alone."""
    return hashlib.sha256(repr((seed, *names)).encode("utf-8", "surrogatepass")).digest()


def some_topics(rows: Iterable[Question], share: float, seed: int) -> list[Question]:
    """The questions of this share of the topics."""
    rows = list(rows)
    topics = sorted({row["topic"] for row in rows}, key=lambda topic: place(seed, topic))
    taken = set(topics[: round(share * len(topics))])
    return [row for row in rows if row["topic"] in taken]


def some_questions(rows: Iterable[Question], most: int, seed: int) -> list[Question]:
    """At most so many questions of every topic."""
    topics: dict[str, list[Question]] = defaultdict(list)
    for row in rows:
        topics[row["topic"]].append(row)
    return [
        row
        for questions in topics.values()
        for row in sorted(questions, key=lambda row: place(seed, row["id"]))[:most]
    ]


def paired_questions(pairs: Iterable[Pair]) -> dict[str, dict[str, str]]:
    """``id`` and ``question`` of the questions that gave these pairs, by id."""
    return {
        pair["question_id"]: {"id": pair["question_id"], "question": pair["question"]}
        for pair in pairs
    }


def equally_many(parts: Iterable[Iterable[Question]], seed: int) -> list[list[Question]]:
    """The parts, each cut at random to the size of the smallest."""
    ordered = [sorted(part, key=lambda row: place(seed, row["id"])) for part in parts]
    size = min(map(len, ordered))
    return [part[:size] for part in ordered]
