"""Figures of lm-evaluation-harness, out of what it writes."""

import json
from collections.abc import Collection, Iterable
from typing import Any

from maskdpo_ray.records import TaskRow


def task_figures(rows: Iterable[TaskRow], tasks: Collection[str]) -> dict[str, dict[str, Any]]:
    """The figures of each task, and of the parts of a group.

    Args:
        tasks: those that count; the rows may hold others.

    Returns:
        From the name of a task to ``metrics`` (from ``acc`` or ``acc,filter`` to ``value``,
        ``stderr``, None where there is none, and ``higher_is_better``, None where the task does
        not say), ``examples``, ``num_fewshot`` and ``version``.
    """
    made = {}
    for row in rows:
        if row["id"] not in tasks:
            continue
        found = json.loads(row["found"])
        for name, figures in (found.get("results", {}) | found.get("groups", {})).items():
            made[name] = {
                "metrics": _metrics(figures, found.get("higher_is_better", {}).get(name) or {}),
                "examples": found.get("n-samples", {}).get(name, {}).get("effective"),
                "num_fewshot": found.get("n-shot", {}).get(name),
                "version": found.get("versions", {}).get(name),
            }
    return made


def _metrics(figures: dict[str, Any], better: dict[str, bool]) -> dict[str, dict[str, Any]]:
    metrics = {}
    for key, value in figures.items():
        name, _, chosen = key.partition(",")
        if name.endswith("_stderr") or not _is_number(value) or not chosen:
            continue
        stderr = figures.get(f"{name}_stderr,{chosen}")
        metrics[name if chosen == "none" else key] = {
            "value": value,
            "stderr": stderr if _is_number(stderr) else None,
            "higher_is_better": better.get(name),
        }
    return metrics


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
