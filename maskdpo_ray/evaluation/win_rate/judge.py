"""A judge between a system's answers and the base's, asked twice: once with either one first."""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from maskdpo_ray.annotation.annotator import document_of
from maskdpo_ray.annotation.annotators.judge import Choices
from maskdpo_ray.annotation.wording import PLACEHOLDER, Templates
from maskdpo_ray.config import WinRateConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.evaluation.choice import ChoiceWording, choose
from maskdpo_ray.records import DuelRow, Question

FIRST, SECOND, TIE = "first", "second", "tie"
WIN, LOSS = "win", "loss"
DECODING = "greedy"
WORDING = ChoiceWording(
    "evaluation.win_rate.templates",
    "win_rate.yaml",
    "maskdpo_ray.evaluation.win_rate",
    choices=(FIRST, SECOND, TIE),
    shown=("question", "first", "second"),
    may_show=("document",),
)


class DuelJudge:
    """Compares the greedy answer to each question with the base's.

    Equal texts are a tie that nobody is asked about.

    Args:
        base: the base's answers to the same questions.
    """

    def __init__(self, model: Choices, wording: Templates, base: Iterable[Question]) -> None:
        self._model = model
        self._wording = wording
        self._base = {row["id"]: _answer(row) for row in base}

    async def __call__(self, rows: list[Question]) -> list[DuelRow | RowRejected]:
        return await asyncio.gather(*map(self._duel, rows))

    async def _duel(self, row: Question) -> DuelRow | RowRejected:
        answer, base = _answer(row), self._base.get(row["id"])
        if answer is None or base is None:
            whose = "the system" if answer is None else "the base"
            return RowRejected(
                "nothing_to_compare", f"question {row['id']!r} has no greedy answer of {whose}"
            )
        try:
            shown_first, shown_second = await asyncio.gather(
                self._ask(row, answer, base, (WIN, LOSS)), self._ask(row, base, answer, (LOSS, WIN))
            )
        except RowRejected as rejected:
            return rejected
        return {
            "id": row["id"],
            "topic": row["topic"],
            "question": row["question"],
            "response": answer,
            "base_response": base,
            "shown_first": shown_first[0],
            "shown_second": shown_second[0],
            "detail": json.dumps([shown_first[1], shown_second[1]], ensure_ascii=False),
        }

    async def _ask(
        self, row: Question, first: str, second: str, mean: tuple[str, str]
    ) -> tuple[str, str]:
        """What preferring the first or the second means, or a tie, or an error; and the reply."""
        if first == second:
            return TIE, "equal texts"
        template = self._wording.of(row)
        values = {"question": row["question"], "first": first, "second": second}
        if "document" in PLACEHOLDER.findall(template["prompt"]):
            values["document"] = document_of(row)
        choice, reply = await choose(self._model, template, values)
        return dict(zip((FIRST, SECOND), mean, strict=True)).get(choice, choice), reply


def _answer(row: Question) -> str | None:
    found = (each["response"] for each in row["candidates"] if each["decoding"] == DECODING)
    return next(found, None)


def build_duels(settings: WinRateConfig, base: Callable[[], Iterable[Any]]) -> DuelJudge:
    """The judge that the configuration names; called inside the actors.

    Args:
        base: reads the base's answers.

    Raises:
        UserError: the engine does not start, the endpoint will not do, or the wording is wrong.
    """
    from maskdpo_ray.engine.chat_of import chat_model

    wording = WORDING.read(settings.templates)  # first: an engine takes long to start
    return DuelJudge(chat_model(settings), wording, base())
