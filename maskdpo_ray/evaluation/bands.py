"""Bands of confidence against human labels: what each would decide, and which to take.

An annotator's verdict stands from some confidence on (``annotation/bands.py``); what it is not sure
of is decided by the next. Bands are chosen on one half of the labelled topics and shown on the
other: a band that was chosen among many looks better where it was chosen than it is.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from maskdpo_ray.annotation.annotator import Verdict
from maskdpo_ray.annotation.bands import Band, stands
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.agreement import agreement
from maskdpo_ray.records import JUDGED, Question, is_correct

GRID = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # bands that are shown
STEPS = 200  # a proposed band is a multiple of 1 / STEPS
FEWEST = 20  # decided sentences that a proposed band rests on
FIGURES = ("precision", "recall", "f1", "accuracy", "kappa")


class Labelled(NamedTuple):
    """A labelled sentence, and what each annotator in order says of it."""

    topic: str
    question: str
    text: str
    label: str
    said: tuple[Verdict | None, ...]  # None: it rejects the question


def labelled_sentences(
    labelled: Iterable[Question], answered: Sequence[Mapping[str, Question]]
) -> list[Labelled]:
    """The sentences with a label that says correct or incorrect.

    Args:
        answered: for each annotator its rows, by id, of the same sentences.
    """
    found = []
    for row in labelled:
        rows = [of.get(row["id"]) for of in answered]
        for place, candidate in enumerate(row["candidates"]):
            for position, sentence in enumerate(candidate["sentences"]):
                if sentence["verdict"] not in JUDGED:
                    continue
                text = candidate["response"][sentence["start"] : sentence["end"]].strip()
                said = tuple(_said(each, place, position) for each in rows)
                found.append(Labelled(row["topic"], row["id"], text, sentence["verdict"], said))
    return found


def _said(row: Question | None, place: int, position: int) -> Verdict | None:
    if row is None:
        return None
    found = row["candidates"][place]["sentences"][position]
    return Verdict(found["verdict"], "", found.get("confidence"))


def decider(said: Sequence[Verdict | None], bands: Sequence[Band]) -> int:
    """Which of several in order decides a sentence."""
    for place, (verdict, band) in enumerate(zip(said, bands, strict=False)):
        if verdict is not None and stands(verdict, band):
            return place
    return len(said) - 1


def figures(
    sentences: Sequence[Labelled], bands: Sequence[Band], place: int, resamples: int, seed: int
) -> dict[str, Any]:
    """What one of several in order does under these bands.

    Returns:
        ``share_decided``: of all sentences, by the one at ``place``; ``decided``: their
        ``agreement`` with the labels, None where there are none; ``cascade``: the same of all
        sentences, each by its decider; ``calls_saved``: the share of the distinct sentences that
        the last is not asked about.
    """
    deciders = [decider(each.said, bands) for each in sentences]
    pairs = list(zip(sentences, deciders, strict=True))
    last = len(bands)
    texts = {(each.question, each.text) for each in sentences}
    left = {(each.question, each.text) for each, by in pairs if by == last}
    own = [(each, by) for each, by in pairs if by == place]
    return {
        "share_decided": len(own) / len(sentences) if sentences else 0.0,
        "decided": _agreement(own, resamples, seed),
        "cascade": _agreement(pairs, resamples, seed),
        "calls_saved": 1 - len(left) / len(texts) if texts else 0.0,
    }


def grid(
    sentences: Sequence[Labelled], bands: Sequence[Band], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """``figures`` of every band in ``GRID`` for each but the last, the others as they are."""
    return [
        {"member": place, "band": band, **figures(sentences, varied, place, resamples, seed)}
        for place in range(len(bands))
        for band in GRID
        for varied in [[*bands[:place], band, *bands[place + 1 :]]]
    ]


def proposed(
    sentences: Sequence[Labelled], wanted: float, resamples: int, seed: int
) -> dict[str, Any]:
    """Bands with which what each decides agrees with the labels as often as ``wanted``.

    For each verdict the least confidence from which on a share of ``wanted`` or more, of at least
    ``FEWEST`` sentences, is rightly held correct or incorrect: on half of the topics, each in order
    on what those before it leave. The figures are of the other half.

    Returns:
        ``agreement``: what is wanted; ``bands``: for each but the last a band by verdicts, None
        where none keeps it; ``chosen_on`` and ``shown_on``: how many ``sentences`` and ``topics``;
        ``members``: ``figures`` of each but the last on the other half.
    """
    chosen_on, shown_on = halves(sentences)
    bands: list[dict[str, float]] = []
    left = chosen_on
    for place in range(len(sentences[0].said) - 1 if sentences else 0):
        bands.append(_band(left, place, wanted))
        left = [each for each in left if decider(each.said, bands) > place]
    sizes = {"chosen_on": chosen_on, "shown_on": shown_on}
    return {
        "agreement": wanted,
        "bands": [band or None for band in bands],
        **{
            name: {"sentences": len(half), "topics": len({each.topic for each in half})}
            for name, half in sizes.items()
        },
        "members": [
            figures(shown_on, bands, place, resamples, seed) for place in range(len(bands))
        ],
    }


def halves(sentences: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """By topic, in an order that has nothing to do with them."""
    topics = sorted({each.topic for each in sentences}, key=lambda t: (zlib.crc32(t.encode()), t))
    first = set(topics[: (len(topics) + 1) // 2])
    found: tuple[list[Labelled], list[Labelled]] = ([], [])
    for each in sentences:
        found[each.topic not in first].append(each)
    return found


def _band(sentences: Sequence[Labelled], place: int, wanted: float) -> dict[str, float]:
    """Of one annotator, on what is left to it."""
    found = {}
    for verdict in JUDGED:
        said = [
            (each.said[place], is_correct(verdict) == is_correct(each.label))
            for each in sentences
            if each.said[place] is not None and each.said[place].verdict == verdict
        ]
        for step in range(STEPS + 1):
            least = step / STEPS
            above = [right for each, right in said if stands(each, least)]
            if len(above) < FEWEST:
                break
            if sum(above) >= wanted * len(above):
                found[verdict] = least
                break
    return found


def _agreement(
    pairs: Sequence[tuple[Labelled, int]], resamples: int, seed: int
) -> dict[str, Any] | None:
    """``FIGURES`` of these sentences, each by its decider; None where nobody decided any."""
    try:
        found = agreement(_rows(pairs), resamples=resamples, seed=seed)
    except UserError:
        return None
    return {name: found[name] for name in (*FIGURES, "sentences")}


def _rows(pairs: Sequence[tuple[Labelled, int]]) -> Iterable[tuple[Any, Any]]:
    """As ``agreement`` takes them: a question twice, as it was judged and as it was labelled."""
    of: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for each, by in pairs:
        said = each.said[by]
        if said is not None:
            of.setdefault((each.topic, each.question), []).append((said.verdict, each.label))
    for (topic, question), verdicts in of.items():
        yield tuple(
            {"id": question, "topic": topic, "candidates": [{"sentences": _sentences(each)}]}
            for each in zip(*verdicts, strict=True)
        )


def _sentences(verdicts: Iterable[str]) -> list[dict[str, Any]]:
    return [{"start": n, "end": n + 1, "verdict": each} for n, each in enumerate(verdicts)]
