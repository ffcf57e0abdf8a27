"""Grades the answers to test questions by their reference answers: by words, or by a judge."""

import asyncio
import json
from collections.abc import Collection, Mapping

from maskdpo_ray.annotation.annotators.judge import Choices
from maskdpo_ray.annotation.wording import Templates
from maskdpo_ray.config import ShortFormConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.evaluation.choice import ChoiceWording, choose
from maskdpo_ray.evaluation.short_form.match import GRADES, NOT_ATTEMPTED, grade
from maskdpo_ray.records import Candidate, GradedAnswer, GradedRow, Question

WORDING = ChoiceWording(
    "evaluation.short_form.templates",
    "short_form.yaml",
    "maskdpo_ray.evaluation.short_form",
    choices=GRADES,
    shown=("question", "references", "answer"),
)


class Grader:
    """Grades answers.

    Args:
        references: by the question's id.
        decodings: the answers that are graded; others are left out.
        model: the judge; None grades by words.
        wording: the judge's.
    """

    def __init__(
        self,
        references: Mapping[str, list[str]],
        decodings: Collection[str],
        model: Choices | None = None,
        wording: Templates | None = None,
    ) -> None:
        self._references = references
        self._decodings = decodings
        self._model = model
        self._wording = wording

    async def __call__(self, rows: list[Question]) -> list[GradedRow | RowRejected]:
        return await asyncio.gather(*map(self._grade, rows))

    async def _grade(self, row: Question) -> GradedRow | RowRejected:
        references = self._references.get(row["id"])
        if not references:
            return RowRejected(
                "no_reference", f"question {row['id']!r} has no reference answer: give it some"
            )
        chosen = [each for each in row["candidates"] if each["decoding"] in self._decodings]
        try:
            answers = await asyncio.gather(
                *(self._answer(row, references, each) for each in chosen)
            )
        except RowRejected as rejected:
            return rejected
        return {
            "id": row["id"],
            "topic": row["topic"],
            "question": row["question"],
            "references": references,
            "answers": list(answers),
        }

    async def _answer(
        self, row: Question, references: list[str], candidate: Candidate
    ) -> GradedAnswer:
        response = candidate["response"]
        if self._model is None:
            found, detail = grade(response, references, row["language"]), ""
        elif not response.strip():
            found, detail = NOT_ATTEMPTED, "empty"
        else:
            found, detail = await self._ask(row, references, response)
        return {
            "index": candidate["index"],
            "decoding": candidate["decoding"],
            "response": response,
            "grade": found,
            "detail": detail,
        }

    async def _ask(self, row: Question, references: list[str], answer: str) -> tuple[str, str]:
        listed = json.dumps(references, ensure_ascii=False)[1:-1]
        values = {"question": row["question"], "references": listed, "answer": answer}
        return await choose(self._model, self._wording.of(row), values)


def build_grader(settings: ShortFormConfig, references: Mapping[str, list[str]]) -> Grader:
    """The grader that the configuration names; called inside the actors.

    Raises:
        UserError: the engine does not start, the endpoint will not do, or the wording is wrong.
    """
    if settings.judge is None:
        return Grader(references, settings.decodings)
    from maskdpo_ray.engine.chat_of import chat_model

    wording = WORDING.read(settings.templates)  # first: an engine takes long to start
    return Grader(references, settings.decodings, chat_model(settings.judge), wording)
