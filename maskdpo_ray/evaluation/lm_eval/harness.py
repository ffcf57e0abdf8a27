"""lm-evaluation-harness on a model in vLLM, a row a task."""

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from maskdpo_ray.config import LmEvalConfig, ModelConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.lm_eval.tasks import task_manager
from maskdpo_ray.records import TaskRow

KEPT = ("results", "groups", "n-samples", "n-shot", "versions", "higher_is_better")


class Harness:
    """Evaluates one task after another.

    Args:
        evaluate: of a task's name, what the harness finds.
    """

    def __init__(self, evaluate: Callable[[str], Mapping[str, Any]]) -> None:
        self._evaluate = evaluate
        # The harness asks and waits: in a thread of its own, where a loop may run.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lm-eval")

    async def __call__(self, rows: list[dict[str, Any]]) -> list[TaskRow]:
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._thread, self._task, row["id"]) for row in rows]

    def _task(self, task: str) -> TaskRow:
        found = self._evaluate(task)
        kept = {key: found[key] for key in KEPT if found.get(key)}
        # The harness writes "N/A" for a figure that there is none of.
        return {"id": task, "found": json.dumps(kept, default=str, sort_keys=True)}


def build_harness(settings: LmEvalConfig, model: ModelConfig, engine: dict[str, Any]) -> Harness:
    """The harness on a model; called inside the actors.

    Raises:
        UserError: the harness is not installed, or the engine does not start.
    """
    manager = task_manager(settings.include_path)
    opened = _open(model, engine)

    def evaluate(task: str) -> Mapping[str, Any]:
        from lm_eval import simple_evaluate

        try:
            manager.load([task])
        except Exception as error:  # whatever a data set's loader raises
            first = next(iter(str(error).strip().splitlines()), "")
            raise UserError(
                f"evaluation.lm_eval: task {task!r} cannot be loaded: "
                f"{type(error).__name__}: {first}"
            ) from error
        return simple_evaluate(
            model=opened,
            tasks=[task],
            task_manager=manager,
            num_fewshot=settings.num_fewshot,
            limit=settings.limit,
            apply_chat_template=settings.apply_chat_template,
            system_instruction=model.system_prompt if settings.apply_chat_template else None,
            log_samples=False,
        )

    return Harness(evaluate)


def _open(model: ModelConfig, engine: dict[str, Any]) -> Any:
    """The model as the harness wants it; conversations are rendered as everywhere here."""
    from maskdpo_ray.engine.chat import chat_text
    from maskdpo_ray.engine.engine import start_engine
    from maskdpo_ray.evaluation.lm_eval.model import EngineLM

    started = start_engine(
        model.path,
        engine,
        dtype=model.dtype,
        revision=model.revision,
        chat_template=model.chat_template,
        template_kwargs=model.chat_template_kwargs,
        trust_remote_code=model.trust_remote_code,
    )
    return EngineLM(
        started, lambda messages: chat_text(started.tokenizer, messages, model.chat_template_kwargs)
    )
