"""Scores of graded short answers (SimpleQA: Wei et al. 2024, arXiv:2411.04368, section 3)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.intervals import percent_interval
from maskdpo_ray.evaluation.short_form.match import CORRECT, INCORRECT, NOT_ATTEMPTED
from maskdpo_ray.records import ERROR_VERDICT, GradedRow


def short_form_score(
    rows: Iterable[GradedRow], decoding: str, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Score of one system under one decoding.

    Returns:
        In percent, each with its interval over topics (``NAME_ci95``): ``accuracy``, the correct of
        all answers; ``given_attempted``, the correct of those that attempt, None where none does;
        ``f``, the harmonic mean of the two, which is 2 correct / (answers + attempted).
        ``correct``, ``incorrect``, ``not_attempted``, ``errors``: answers, the last left out;
        ``answers``: graded; ``questions``, ``topics``.

    Raises:
        UserError: no answer has a grade.
    """
    numbers: dict[str, int] = {}
    table, errors, questions = [], 0, set()
    for row in rows:
        for answer in row["answers"]:
            if answer["decoding"] != decoding:
                continue
            if answer["grade"] == ERROR_VERDICT:
                errors += 1
                continue
            questions.add(row["id"])
            topic = numbers.setdefault(row["topic"], len(numbers))
            table.append((topic, answer["grade"]))
    if not table:
        raise UserError(f"no {decoding} short answer has a grade; the judge failed on {errors}")
    topics = np.array([topic for topic, _ in table])
    grades = np.array([grade for _, grade in table])
    correct = (grades == CORRECT).astype(float)
    attempted = (grades != NOT_ATTEMPTED).astype(float)
    found: dict[str, Any] = {}
    for name, over, under in (
        ("accuracy", correct, np.ones(len(table))),
        ("given_attempted", correct, attempted),
        ("f", 2 * correct, 1 + attempted),
    ):
        some = bool(under.any())
        found[name] = 100 * float(over.sum() / under.sum()) if some else None
        found[f"{name}_ci95"] = (
            percent_interval(topics, over, under, resamples, seed) if some else None
        )
    counts = {grade: int((grades == grade).sum()) for grade in (CORRECT, INCORRECT, NOT_ATTEMPTED)}
    return {
        **found,
        **counts,
        "errors": errors,
        "answers": len(table),
        "questions": len(questions),
        "topics": len(numbers),
    }
