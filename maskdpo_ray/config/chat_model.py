"""Settings of a chat model that is asked: in the actors, or behind a server."""

from typing import Any, Literal

from pydantic import Field, model_validator

from maskdpo_ray.config.chat_template import ChatTemplateKwargs, ReasoningSetting
from maskdpo_ray.config.endpoint import AnnotatorEndpointConfig
from maskdpo_ray.config.engine import Engine
from maskdpo_ray.config.section import Content, Kind, Section


class ChatModelConfig(Section):
    """A chat model in the actors, or behind a server."""

    model: Content[str | None] = None
    """Local folder or hub id."""
    revision: Content[str | None] = None
    """Branch, tag or commit on the hub."""
    chat_template: Content[str | None] = None
    """File with a Jinja chat template that replaces the tokenizer's own."""
    chat_template_kwargs: ChatTemplateKwargs = {}
    """Variables of the chat template, e.g. `{enable_thinking: false}`; the template must read
    them. A server of `endpoint` is sent them."""
    reasoning: ReasoningSetting = "auto"
    """How it marks its reasoning: found in its tokenizer and template (`auto`), `none`, or the
    pair of markers, e.g. `["<think>", "</think>"]` (docs/prompts.md)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_tokens: int = Field(default=512, ge=1)
    """Longest reply, in tokens."""
    trust_remote_code: bool = False
    engine: Engine = {}
    """Any argument of vLLM's engine."""
    endpoint: AnnotatorEndpointConfig | None = None
    """A server of the model, in place of `model` in the actors."""

    @model_validator(mode="after")
    def _model_or_endpoint(self) -> "ChatModelConfig":
        if not (self.model or self.endpoint):
            raise ValueError("model or endpoint is missing: a folder, a hub id, or a server")
        of_engine = ("model", "revision", "chat_template", "dtype", "trust_remote_code", "engine")
        of_engine += ("reasoning",)
        if self.endpoint and (given := self.changed(*of_engine)):
            raise ValueError(f"the server of endpoint decides {', '.join(given)}: remove it here")
        return self

    @property
    def asked(self) -> str | None:
        """The model, in the actors or at its server."""
        return self.endpoint.model if self.endpoint else self.model

    @property
    def engines(self) -> list[dict[str, Any]]:
        """Arguments of the engine that starts in an actor, if one does."""
        return [] if self.endpoint else [self.engine]

    @property
    def servers(self) -> list[dict[str, Any]]:
        """Whom it asks elsewhere."""
        return [self.endpoint.only(Kind.DECIDES, Kind.WHERE)] if self.endpoint else []
