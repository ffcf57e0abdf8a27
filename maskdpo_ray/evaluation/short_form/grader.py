"""Grades the answers to test questions by their reference answers: by words, or by a judge."""

import asyncio
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from maskdpo_ray.annotation.wording import (
    Templates,
    check_choices,
    check_wording,
    fill,
    our_file,
    read_templates,
)
from maskdpo_ray.config import ShortFormConfig
from maskdpo_ray.engine.chat import Messages
from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.evaluation.short_form.match import GRADES, NOT_ATTEMPTED, grade
from maskdpo_ray.records import ERROR_VERDICT, Candidate, GradedAnswer, GradedRow, Question


class Choices(Protocol):
    """A chat model with constrained replies (``engine.chat_model.ChatModel``)."""

    async def reply(self, messages: Messages, choices: list[str]) -> Reply: ...


PACKAGE, WORDING = "maskdpo_ray.evaluation.short_form", "short_form.yaml"


def wording_file(path: str | None = None) -> Path:
    """The file that ``read_wording`` reads."""
    return Path(path) if path else our_file(WORDING, PACKAGE)


def read_wording(path: str | None = None) -> Templates:
    """The judge's prompt and the words of the grades, from a file or our own.

    Raises:
        UserError: a placeholder is missing, or the words do not stand for the grades one to one.
    """
    key = "evaluation.short_form.templates"
    templates = read_templates(path, WORDING, PACKAGE, key)
    for language, template in templates.languages.items():
        place = f"{templates.file}: {language}"
        required = ("question", "references", "answer")
        check_wording(template.get("prompt"), f"{place}.prompt", required)
        check_choices(template.get("choices"), f"{place}.choices", GRADES)
    return templates


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
        template = self._wording.of(row)
        listed = json.dumps(references, ensure_ascii=False)[1:-1]
        values = {"question": row["question"], "references": listed, "answer": answer}
        prompt = [{"role": "user", "content": fill(template["prompt"], values)}]
        meaning = {word: name for name, word in template["choices"].items()}
        try:
            reply = await self._model.reply(prompt, choices=list(meaning))
        except RequestRefused as error:
            return ERROR_VERDICT, str(error)
        return (meaning.get(reply.text) if reply.complete else None) or ERROR_VERDICT, reply.text


def build_grader(settings: ShortFormConfig, references: Mapping[str, list[str]]) -> Grader:
    """The grader that the configuration names; called inside the actors.

    Raises:
        UserError: the engine does not start, the endpoint will not do, or the wording is wrong.
    """
    if settings.judge is None:
        return Grader(references, settings.decodings)
    from maskdpo_ray.engine.chat_of import chat_model

    wording = read_wording(settings.templates)  # first: an engine takes long to start
    return Grader(references, settings.decodings, chat_model(settings.judge), wording)
