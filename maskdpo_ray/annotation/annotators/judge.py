"""A general chat model as annotator: one turn, the reply constrained to the verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import model_validator

from maskdpo_ray.annotation.annotator import Verdict, document_of
from maskdpo_ray.annotation.chat_annotator import ChatAnnotator, ChatSettings
from maskdpo_ray.annotation.details import written
from maskdpo_ray.annotation.wording import (
    PLACEHOLDER,
    Templates,
    check_apart,
    check_wording,
    fill,
    read_templates,
)
from maskdpo_ray.config.chat_model import ChatModelConfig
from maskdpo_ray.config.inputs import ModelConfig
from maskdpo_ray.engine.chat_of import chat_model
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import UserError
from maskdpo_ray.verdicts import CORRECT_VERDICTS, ERROR_VERDICT, INCORRECT_VERDICTS

if TYPE_CHECKING:
    from maskdpo_ray.engine.chat import Messages
    from maskdpo_ray.engine.chat_model import Reply
    from maskdpo_ray.records import Question
    from maskdpo_ray.storage import Folder


class Choices(Protocol):
    """A chat model with constrained replies (``engine.chat_model.ChatModel``)."""

    async def reply(self, messages: Messages, choices: list[str]) -> Reply: ...


def read_judge_templates(path: str | None = None) -> Templates:
    """The prompt and the words of its verdicts, from a file or our own.

    Raises:
        UserError: a placeholder is missing, or the words do not stand for verdicts one to one.
    """
    templates = read_templates(path, JudgeAnnotator.wording)
    for language, template in templates.languages.items():
        place = f"{templates.file}: {language}"
        prompt = template.get("prompt")
        check_wording(prompt, f"{place}.prompt", ("question", "sentence"), ("document",))
        check_words(template.get("verdicts"), f"{place}.verdicts")
    return templates


def shows_document(template: dict[str, Any]) -> bool:
    """Whether the wording of a language has a place for the document, which is needed then."""
    return "document" in PLACEHOLDER.findall(template["prompt"])


class JudgeSettings(ChatSettings):
    """One turn with any chat model."""

    confidence: bool = False
    """Keep the probability that it gives its verdict, for `preference.weights: confidence`."""

    @model_validator(mode="after")
    def _shows_passages(self) -> JudgeSettings:
        if self.knowledge and self.templates in self.kind.other_wordings:
            raise ValueError(f"templates={self.templates} shows no passages: remove knowledge")
        return self

    @model_validator(mode="after")
    def _constrained(self) -> JudgeSettings:
        if self.endpoint is None:
            return self
        constrain = self.endpoint.constrain
        if constrain is None:
            raise ValueError(
                "endpoint.constrain is missing: vllm for vLLM's server, json_schema for others "
                "that know response_format, none for the rest"
            )
        if self.confidence and constrain != "vllm":
            raise ValueError(
                f"endpoint.constrain={constrain} gives no probability of a verdict alone: remove "
                "confidence, or use vLLM's server"
            )
        return self

    @property
    def confident(self) -> bool:
        return self.confidence

    def second_opinion(self, policy: ModelConfig, engine: dict[str, Any]) -> JudgeSettings | None:
        if self.asked == policy.path:
            return None
        shows_none = self.templates in self.kind.other_wordings
        held = {} if shows_none else self.held_against()
        return policy_as_judge(policy, engine, templates=self.templates, **held)


def policy_as_judge(
    policy: ModelConfig, engine: dict[str, Any], **settings: Any
) -> JudgeSettings | None:
    """The policy as a judge with these settings; None where there is no policy."""
    if not policy.path:
        return None
    both = ChatModelConfig.model_fields.keys() & ModelConfig.model_fields.keys()
    of_model = {key: getattr(policy, key) for key in both}
    given = {"model": policy.path, "engine": engine, **of_model, **settings}
    return JudgeSettings(annotator=Path(__file__).stem, **given)


class JudgeAnnotator(ChatAnnotator):
    """Any chat model, asked once per sentence, its reply one of the verdicts.

    ``detail`` is JSON as in ``anah``.

    The confidence is the probability of the tokens that the model replied, each among those that
    the words of the verdicts allow there, where ``model`` gives probabilities.

    The document is needed when the template of the question's language shows it.
    """

    Settings = JudgeSettings
    wording = "judge.yaml"
    other_wordings = ("closed_book",)  # needs no document

    def __init__(self, model: Choices, templates: Templates) -> None:
        self._model = model
        self._templates = templates

    @classmethod
    def build(cls, settings: JudgeSettings, world: Folder | None) -> JudgeAnnotator:
        templates = read_judge_templates(settings.templates)
        return cls(chat_model(settings, settings.confidence), templates)

    @classmethod
    def needs_document(cls, settings: JudgeSettings, language: str) -> bool:
        if settings.knowledge:
            return False
        wording = read_judge_templates(settings.templates).languages.get(language)
        return wording is not None and shows_document(wording)

    async def verdict(self, question: Question, sentence: str) -> Verdict:
        """Verdict on one sentence.

        Raises:
            RowRejected: a document is needed and missing, or the language has no template.
        """
        template = self._templates.of(question)
        values = {"question": question["question"], "sentence": sentence}
        if shows_document(template):
            values["document"] = document_of(question)
        prompt = [{"role": "user", "content": fill(template["prompt"], values)}]
        meaning = {word: verdict for verdict, word in template["verdicts"].items()}
        try:
            reply = await self._model.reply(prompt, choices=list(meaning))
        except RequestRefused as error:
            return Verdict(ERROR_VERDICT, written(replies=[], reason=str(error)))
        # A reply that was cut may be the beginning of a longer word.
        verdict = meaning.get(reply.text, ERROR_VERDICT) if reply.complete else ERROR_VERDICT
        failed = verdict == ERROR_VERDICT
        reason = "no verdict: raise annotation.max_tokens or max_model_len" if failed else None
        detail = written(replies=[reply.text], reason=reason, tokens=reply.tokens)
        return Verdict(verdict, detail, reply.probability)


def check_words(words: Any, place: str) -> None:
    """Raise ``UserError`` unless the words stand for verdicts, correct and incorrect, one each."""
    known = (*CORRECT_VERDICTS, *INCORRECT_VERDICTS)
    if not isinstance(words, dict) or not set(words) <= set(known):
        raise UserError(f"{place} must map {', '.join(known)} to words")
    check_apart(words.values(), place)
    if not set(words) & set(CORRECT_VERDICTS) or not set(words) & set(INCORRECT_VERDICTS):
        raise UserError(f"{place} needs a word for a correct and one for an incorrect verdict")
