"""The three-turn annotator of ANAH-v2 (docs/method.md, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import model_validator

from maskdpo_ray.annotation.anah_replies import (
    NO_FACTS,
    UnreadableReply,
    read_fact_existence,
    read_hallucination_type,
    read_references,
)
from maskdpo_ray.annotation.annotator import Verdict, document_of
from maskdpo_ray.annotation.annotators.judge import policy_as_judge
from maskdpo_ray.annotation.chat_annotator import ChatAnnotator, ChatSettings
from maskdpo_ray.annotation.details import written
from maskdpo_ray.annotation.wording import Templates, check_wording, fill, read_templates
from maskdpo_ray.config.annotation import AnnotationConfig
from maskdpo_ray.config.inputs import ModelConfig
from maskdpo_ray.engine.chat_of import chat_model
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.verdicts import ERROR_VERDICT

if TYPE_CHECKING:
    from maskdpo_ray.engine.chat import Messages
    from maskdpo_ray.engine.chat_model import Reply
    from maskdpo_ray.records import Question
    from maskdpo_ray.storage import Folder

TURNS = {
    "fact_existence": ("question", "sentence"),
    "references": ("question", "sentence", "document"),
    "hallucination": ("question", "sentence", "references"),
}


class Replies(Protocol):
    """A chat model (``engine.chat_model.ChatModel``)."""

    async def reply(self, messages: Messages) -> Reply: ...


def read_anah_templates(path: str | None = None) -> Templates:
    """The wording of the three turns, from a file or our own.

    Raises:
        UserError: a turn or one of its placeholders is missing.
    """
    templates = read_templates(path, AnahAnnotator.wording)
    for language, turns in templates.languages.items():
        for turn, placeholders in TURNS.items():
            check_wording(turns.get(turn), f"{templates.file}: {language}.{turn}", placeholders)
    return templates


class AnahSettings(ChatSettings):
    """The three-turn protocol."""

    @model_validator(mode="after")
    def _replies_freely(self) -> AnahSettings:
        if self.endpoint and self.endpoint.constrain is not None:
            raise ValueError("annotator 'anah' replies freely: remove endpoint.constrain")
        return self

    def second_opinion(
        self, policy: ModelConfig, engine: dict[str, Any]
    ) -> AnnotationConfig | None:
        return policy_as_judge(policy, engine, **self.held_against())


class AnahAnnotator(ChatAnnotator):
    """Up to three turns per sentence, one growing conversation.

    A sentence without facts ends after the first turn, one that the document says nothing about
    after the second. ``detail`` of a verdict is JSON: the raw ``replies``, the ``reason`` of an
    error, and the ``tokens`` that were read and written, where the model tells.
    """

    Settings = AnahSettings
    needs = {"document"}
    default = True  # the paper's own
    wording = "anah.yaml"

    def __init__(self, model: Replies, templates: Templates) -> None:
        self._model = model
        self._templates = templates

    @classmethod
    def build(cls, settings: AnahSettings, world: Folder | None) -> AnahAnnotator:
        templates = read_anah_templates(settings.templates)  # first: an engine takes long to start
        return cls(chat_model(settings, turns=True), templates)

    async def verdict(self, question: Question, sentence: str) -> Verdict:
        """Verdict on one sentence.

        Raises:
            RowRejected: the question has no document, or its language no template.
        """
        conversation = _Conversation(
            self._model,
            self._templates.of(question),
            {
                "question": question["question"],
                "document": document_of(question),
                "sentence": sentence,
            },
        )
        try:
            verdict = await self._judge(conversation)
        except (UnreadableReply, RequestRefused) as error:
            reason = f"turn {conversation.turns}: {error}"
            return Verdict(ERROR_VERDICT, conversation.detail(reason))
        return Verdict(verdict, conversation.detail())

    async def _judge(self, conversation: _Conversation) -> str:
        facts = await conversation.turn("fact_existence", read_fact_existence)
        if facts == NO_FACTS:
            return "nofact"
        if not await conversation.turn("references", read_references):
            return "unverifiable"
        return await conversation.turn("hallucination", read_hallucination_type)


class _Conversation:
    """The turns about one sentence."""

    def __init__(self, model: Replies, wordings: dict[str, str], values: dict[str, str]) -> None:
        self._model = model
        self._wordings = wordings
        self._values = values
        self._messages: Messages = []
        self._replies: list[str] = []  # as they came
        self._tokens: list[int] = []  # of each reply, where the model tells
        self.turns = 0

    async def turn(self, name: str, read: Callable[[str], Any]) -> Any:
        self.turns += 1
        self._messages.append({"role": "user", "content": fill(self._wordings[name], self._values)})
        reply = await self._model.reply(self._messages)
        self._replies.append(reply.text)
        self._tokens += [] if reply.tokens is None else [reply.tokens]
        if not reply.complete:
            raise UnreadableReply(
                f"the reply was cut at its longest ({len(reply.text)} characters): "
                "raise annotation.max_tokens or the engine's max_model_len"
            )
        self._messages.append({"role": "assistant", "content": reply.text})
        self._values["references"] = reply.text
        return read(reply.text)

    def detail(self, reason: str | None = None) -> str:
        tokens = sum(self._tokens) if self._tokens else None
        return written(replies=self._replies, reason=reason, tokens=tokens)
