"""Questions that bring their answers along, as a run reads them (``sampling.source: input``)."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

from maskdpo_ray.experiments.parts import place
from maskdpo_ray.records import Candidate, Question


def whole(answer: Candidate) -> str:
    """All that a model said: its reasoning, which whoever reads it tells apart again, and its
    response."""
    return f"{answer.get('reasoning') or ''}{answer['response']}"


def with_answers(row: Question, *answers: str, name: str | None = None) -> dict[str, Any]:
    """The question with these answers, for an annotator to look at.

    Args:
        answers: texts, whole ones where their model thinks (``whole``).
        name: the row's id, where one question gives several rows.
    """
    keys = ("topic", "question", "document", "language")
    return {
        "id": name or row["id"],
        **{key: row[key] for key in keys if row[key] is not None},
        "candidates": [{"response": answer} for answer in answers],
    }


def judged(row: Question, *answers: Candidate) -> dict[str, Any]:
    """The question with these answers and the verdicts that they have
    (``annotation.annotator: labels``)."""
    made = with_answers(row, *map(whole, answers))
    for answer, given in zip(answers, made["candidates"], strict=True):
        before = len(given["response"]) - len(answer["response"])
        given["sentences"] = [
            {"start": before + of["start"], "end": before + of["end"], "label": of["verdict"]}
            for of in answer["sentences"]
        ]
    return made


def decided(row: Question, chosen: str, rejected: str, name: str) -> dict[str, Any]:
    """A pair whose order is given (``annotation.annotator: labels``).

    Either answer is labelled as one sentence, right or wrong as a whole: enough for vanilla DPO,
    which learns every token.
    """
    pair = with_answers(row, chosen, rejected, name=name)
    # Labels that no setting of selection takes for anything else.
    for answer, label in zip(pair["candidates"], ("ok", "contradictory"), strict=True):
        answer["sentences"] = [{"start": 0, "end": len(answer["response"]), "label": label}]
    return pair


def larger_reward_pairs(
    row: Question, reward: Callable[[Candidate], float | None], most: int, seed: int
) -> list[dict[str, Any]]:
    """Every two answers of a question, the one with the strictly larger reward preferred (FactTune:
    Tian et al. 2023, section 3.3).

    Args:
        reward: of an answer; None leaves it out.
        most: pairs of one question; beyond, a random choice by seed.
    """
    rewards = {c["index"]: reward(c) for c in row["candidates"]}
    rewarded = [c for c in row["candidates"] if rewards[c["index"]] is not None and c["response"]]
    pairs = [
        (better, worse)
        for better, worse in permutations(rewarded, 2)
        if rewards[better["index"]] > rewards[worse["index"]]
    ]
    pairs.sort(key=lambda pair: place(seed, row["id"], *(c["index"] for c in pair)))
    return [
        decided(
            row,
            whole(better),
            whole(worse),
            name=f"{row['id']}~{better['index']}~{worse['index']}",
        )
        for better, worse in pairs[:most]
    ]
