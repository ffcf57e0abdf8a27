"""Examiners held against human labels: each, what is made of several, and bands of confidence."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from maskdpo_ray.annotation.details import decided_by
from maskdpo_ray.config import AnnotationConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.agreement import agreement, same_questions
from maskdpo_ray.evaluation.bands import FIGURES, grid, labelled_sentences, proposed
from maskdpo_ray.evaluation.recorded import Answered, asked_alone, cost, recorded, said_again
from maskdpo_ray.records import SKIPPED_VERDICT, Question


def checked(
    labelled: Sequence[Question],
    examiners: Mapping[str, AnnotationConfig],
    answered: Mapping[str, Answered],
    once: Container[str],
    resamples: int,
    seed: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The figures of every examiner, and why there are none of some.

    Args:
        labelled: questions with labelled answers.
        examiners: by where their settings stand.
        answered: what those that are not made of others said of the labelled sentences.
        once: those to tell of; others have the settings of one of them.

    Returns:
        Two mappings by the same keys. First who it is, its ``agreement`` with the labels, the
        ``calls`` (distinct sentences of a question, or answers) and ``tokens`` it took. Of one made
        of others also ``members`` by their keys: ``calls``, ``tokens``, and of what it decided
        itself ``decided`` (a number), ``share_decided`` and ``of_decided`` (``agreement``); of one
        with bands ``calls_saved`` (of the last one's), ``bands`` (``bands.grid``) and ``proposed``
        (``bands.proposed``). Then the reasons.
    """
    said = dict(answered)
    figures: dict[str, dict[str, Any]] = {}
    without: dict[str, str] = {}
    # Members stand behind what is made of them, and are needed first.
    for key, annotation in reversed(examiners.items()):
        of = {f"{key}.{place}": member for place, member in annotation.members.items()}
        members = {name: recorded(member, said[name]) for name, member in of.items()}
        if members:
            said[key] = said_again(annotation, members.values(), labelled)
        if key not in once:
            continue
        rows = list(same_questions(said[key].rows.values(), labelled))
        try:
            found = agreement(rows, resamples=resamples, seed=seed)
        except UserError as error:
            without[key] = str(error)
            continue
        asked = {(name, *each): n for name, m in members.items() for each, n in m.asked.items()}
        asked = asked if members else asked_alone(annotation, said[key])
        figures[key] = annotation.who | found | cost(asked)
        if members:
            names = dict(zip(of, annotation.names, strict=True))
            figures[key]["members"] = {
                name: {**of[name].who, "name": names[name], **cost(member.asked)}
                | _decided(rows, names[name], found["sentences"], resamples, seed)
                for name, member in members.items()
            }
        if bands := getattr(annotation, "bands", None):
            *_, last = of
            alone = asked_alone(of[last], said[last])
            sentences = labelled_sentences(labelled, [said[name].rows for name in of])
            figures[key] |= {
                "calls_saved": 1 - len(members[last].asked) / len(alone) if alone else None,
                "bands": grid(sentences, bands, resamples, seed),
                "proposed": proposed(sentences, annotation.agreement, resamples, seed),
            }
    return {key: figures[key] for key in examiners if key in figures}, without


def _decided(
    rows: Sequence[tuple[Question, Question]], name: str, of: int, resamples: int, seed: int
) -> dict[str, Any]:
    """Of the sentences that a member decided itself; of a vote it is nobody's."""
    own = [(_own(judged, name), label) for judged, label in rows]
    try:
        found = agreement(own, resamples=resamples, seed=seed)
    except UserError:
        return {"decided": 0, "share_decided": 0.0, "of_decided": None}
    return {
        "decided": found["sentences"],
        "share_decided": found["sentences"] / of,
        "of_decided": {figure: found[figure] for figure in FIGURES},
    }


def _own(row: Question, name: str) -> Question:
    """A question with the verdicts that one annotator decided alone."""
    candidates = [
        {
            **candidate,
            "sentences": [
                each if decided_by(each["detail"]) == name else {**each, "verdict": SKIPPED_VERDICT}
                for each in candidate["sentences"]
            ],
        }
        for candidate in row["candidates"]
    ]
    return {**row, "candidates": candidates}
