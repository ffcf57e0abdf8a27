"""The paper's hypothesis (equations 7 and 8) looked at itself: whether what a model gets wrong
about a topic belongs to topics that lie near it in the model's own embedding."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.compare import Outcome
from maskdpo_ray.records import INCORRECT_VERDICTS, Question
from maskdpo_ray.world.annotator import readings
from maskdpo_ray.world.facts import Facts

Statement = tuple[str, Any]  # what is stated, e.g. ("award", "Heron"), or ("entity", "Heron")
UPPER, LETTER = "A-ZÀ-ÖØ-Þ", "A-Za-zÀ-ÖØ-öø-ɏ"
WORD = rf"[{UPPER}](?:(?!['’]s\b)['’-]?[{LETTER}0-9])+"  # O'Brien-Smith; Babbage of Babbage's
NAME = re.compile(rf"(?<![{LETTER}0-9]){WORD}(?: {WORD})*")
YEAR = re.compile(rf"(?<!\d)(?<!\d[.,])\d{{3,4}}(?![\d{LETTER}]|[.,]\d)")
CHINESE = re.compile(r"[\u3400-\u9fff]")
# A title, or a few words in quotation marks without a mark of punctuation, which speech has.
QUOTED = re.compile(
    r"《([^《》\n]{1,40})》|[“「『]([^“”「」『』，。！？、；：,.!?\s]{2,12})[”」』]"
)
OPENING = "\"'“‘(["


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


def stated_elsewhere(topic: str, text: str) -> set[Statement]:
    """Names and years in a text, but for the topic's own: for real text, a rough match.

    Names are runs of words with a capital. The first word of a sentence or of a quotation has one
    whatever it is: alone it is no name, and a longer run that it begins counts with and without
    it ("In London" is nobody's, "London" and "Charles Babbage" are). Chinese marks neither names
    nor sentences so: there, titles (《》), short quotations, and any name in Latin letters count;
    names of people without a mark are not seen. Years are numbers of three or four digits.
    """
    chinese = CHINESE.search(text)
    sentences = [text] if chinese else [text[a:b] for a, b in split_sentences(text, "en")]
    names = {name for sentence in sentences for name in _names(sentence, bool(chinese))}
    names |= {title or quoted for title, quoted in QUOTED.findall(text) if chinese}
    found = {name for name in names if not _is_of(topic, name)}
    return {("entity", name) for name in found | set(YEAR.findall(text))}


def _names(sentence: str, chinese: bool) -> Iterator[str]:
    for match in NAME.finditer(sentence):
        before = sentence[: match.start()]
        opens = not any(map(str.isalnum, before)) or before[-1] in OPENING
        names = [match[0]]
        if opens and not chinese:
            _, space, rest = match[0].partition(" ")
            names = [match[0], rest] if space else []
        # Shorter ones are pronouns and forms of address more often than names.
        yield from (name for name in names if len(name) > 2)


def _is_of(topic: str, name: str) -> bool:
    """Whether a name is the topic's own, or a part of it: words of English, any of Chinese."""
    within = CHINESE.search(name) and (name in topic or topic in name)
    return bool(within or set(name.split()) & set(topic.split()))


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

    Raises:
        UserError: there is nothing to compare: no topic has facts, no wrong sentence states
            anything, or there are fewer other topics than parts.
    """
    if len(topics) <= bins:
        raise UserError(
            f"{len(topics)} topics are too few for {bins} parts of the others: give more topics"
        )
    place = {topic: number for number, topic in enumerate(topics)}
    holders: dict[Statement, set[int]] = {}
    for topic in topics:
        for fact in facts[topic]:
            holders.setdefault(fact, set()).add(place[topic])
    if not holders:
        raise UserError(
            f"nothing is known of {len(topics)} topics: give their questions a `document`"
        )
    stated_of: dict[str, list[set[Statement]]] = {}
    for topic, stated in statements:
        if topic in place and stated:
            stated_of.setdefault(topic, []).append(stated)
    if not stated_of:
        raise UserError(
            f"none of {len(statements)} wrong sentences about {len(topics)} topics states anything "
            "that could be looked up in the others: sample more questions or candidates"
        )
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
