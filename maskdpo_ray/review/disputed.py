"""Which sentences a person should look at: those that examiners dispute.

A sentence is disputed where examiners differ on whether it is correct, where one of them failed, or
where one was not confident. Where several answers to a question say the same sentence it comes up
once, as annotators are asked once.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from maskdpo_ray.annotation.details import decided_by
from maskdpo_ray.records import (
    CORRECT_VERDICTS,
    ERROR_VERDICT,
    INCORRECT_VERDICTS,
    Question,
    Sentence,
)


class Disputed(NamedTuple):
    """A sentence and how much it is disputed: a larger ``rank`` is looked at first."""

    rank: tuple[bool, int, float]  # examiners differ; how many failed; the largest doubt
    row: dict[str, Any]  # of the review file, see docs/review.md


def disputed(examined: Mapping[str, Question], system: str, doubt: float) -> Iterator[Disputed]:
    """The disputed sentences of one question.

    Args:
        examined: the question as each examiner left it, the same answers in the same order.
        system: who answered.
        doubt: a verdict with a confidence below 1 - doubt is disputed.
    """
    first = next(iter(examined.values()))
    seen: set[str] = set()
    for place, candidate in enumerate(first["candidates"]):
        for position, sentence in enumerate(candidate["sentences"]):
            start, end = sentence["start"], sentence["end"]
            text = candidate["response"][start:end].strip()
            if not text or text in seen:
                continue
            seen.add(text)
            said = opinions(examined, place, position)
            rank, why = _dispute(said, doubt)
            if not why:
                continue
            verdicts = {name: _told(opinion) for name, opinion in said.items()}
            yield Disputed(
                rank,
                {
                    "id": f"{first['id']}/{hashlib.sha256(text.encode()).hexdigest()[:8]}",
                    **{key: first[key] for key in ("topic", "question", "document", "language")},
                    "question_id": first["id"],
                    "system": system,
                    "response": candidate["response"],
                    "start": start,
                    "end": end,
                    "sentence": text,
                    "verdicts": verdicts,
                    "why": why,
                    "label": None,
                },
            )


def opinions(examined: Mapping[str, Question], place: int, position: int) -> dict[str, Sentence]:
    """What each examiner says of one sentence of one answer, the first one first; of others where
    they cut the answer in the same way."""
    sentence = next(iter(examined.values()))["candidates"][place]["sentences"][position]
    return {
        name: found
        for name, row in examined.items()
        if (found := _same(row["candidates"][place]["sentences"], position, sentence))
    }


def _told(opinion: Sentence) -> dict[str, Any]:
    """A verdict as a person reads it: a stored confidence has the digits of single precision."""
    confidence = opinion.get("confidence")
    told = {"verdict": opinion["verdict"], "confidence": confidence and round(confidence, 4)}
    by = decided_by(opinion["detail"])
    return {**told, "detail": opinion["detail"], **({"decided_by": by} if by else {})}


def _same(sentences: list[Sentence], position: int, sentence: Sentence) -> Sentence | None:
    """What another examiner says of a sentence, where it cut the answer in the same way."""
    if position >= len(sentences):
        return None
    found = sentences[position]
    here = (found["start"], found["end"]) == (sentence["start"], sentence["end"])
    return found if here else None


def _dispute(
    opinions: Mapping[str, Sentence], doubt: float
) -> tuple[tuple[bool, int, float], list[str]]:
    right = [name for name, said in opinions.items() if said["verdict"] in CORRECT_VERDICTS]
    wrong = [name for name, said in opinions.items() if said["verdict"] in INCORRECT_VERDICTS]
    failed = [name for name, said in opinions.items() if said["verdict"] == ERROR_VERDICT]
    doubts = {
        name: 1 - said["confidence"]
        for name, said in opinions.items()
        if said.get("confidence") is not None and said["verdict"] != ERROR_VERDICT
    }
    unsure = {name: value for name, value in doubts.items() if value > doubt}
    why = []
    if right and wrong:
        why.append(f"correct for {', '.join(right)}, incorrect for {', '.join(wrong)}")
    why += [f"{name} failed" for name in failed]
    why += [f"{name} is {1 - value:.0%} confident" for name, value in unsure.items()]
    return (bool(right and wrong), len(failed), max(doubts.values(), default=0.0)), why
