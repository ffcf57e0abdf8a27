"""Which tasks there are: looked up before any model is loaded."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import UserError


def task_manager(include_path: str | None) -> Any:
    """The harness's index of tasks, its own and those of a folder.

    Raises:
        UserError: the harness is not installed, or there is no such folder.
    """
    _ = harness_version()
    if include_path and not Path(include_path).is_dir():
        raise UserError(f"evaluation.lm_eval.include_path: no folder at {include_path}")
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def harness_version() -> str:
    """The installed harness's, or ``UserError`` where there is none."""
    if find_spec("lm_eval") is None:
        raise UserError("evaluation.lm_eval needs the harness: pip install 'maskdpo-ray[lm-eval]'")
    return version("lm_eval")


def check_tasks(tasks: Sequence[str], include_path: str | None) -> None:
    """Raise ``UserError`` unless the harness knows all tasks."""
    known = task_manager(include_path)
    if unknown := [task for task in tasks if task not in known.all_tasks]:
        raise UserError(
            f"evaluation.lm_eval.tasks: the harness knows no {unknown[0]!r}; `lm-eval ls tasks` "
            "lists its own, include_path adds a folder of yours"
        )


def tasks_identity(include_path: str | None) -> dict[str, str | None]:
    """What decides what a task is: the harness's version, and all that lies in the folder."""
    folder = None
    if include_path:
        digest = hashlib.sha256()
        root = Path(include_path)
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(root)}\0{content}\n".encode())
        folder = digest.hexdigest()
    return {"lm_eval": harness_version(), "include_path": folder}
