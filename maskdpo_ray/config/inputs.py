"""What a run starts from: the policy, or the closed world that provides it and the questions."""

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from maskdpo_ray.config.chat_template import ChatTemplateKwargs, ReasoningSetting
from maskdpo_ray.config.section import Content, Section


class ModelConfig(Section):
    """The policy that is sampled, aligned and evaluated."""

    path: Content[str | None] = None
    """Local folder or hub id of a causal language model."""

    @field_validator("path")
    @classmethod
    def _home(cls, value: str | None) -> str | None:
        return str(Path(value).expanduser()) if value and value.startswith("~") else value

    revision: Content[str | None] = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of sampling, reference and training. The reference must use training's."""
    chat_template: Content[str | None] = None
    """File with a Jinja chat template that replaces the tokenizer's own."""
    chat_template_kwargs: ChatTemplateKwargs = {}
    """Variables of the chat template, e.g. `{enable_thinking: false}`; the template must read
    them."""
    reasoning: ReasoningSetting = "auto"
    """How it marks its reasoning: found in its tokenizer and template (`auto`), `none`, or the
    pair of markers, e.g. `["<think>", "</think>"]` (docs/prompts.md)."""
    system_prompt: str | None = None
    trust_remote_code: bool = False


class WorldConfig(Section):
    """The embedded closed world: its builder provides the questions, the truth, and the model where
    `model.path` names no other."""

    seed: int | None = None
    """Seed of the facts and of pre-training; the run's seed if left out."""
    small: bool = False
    """A miniature for tests: few people, seconds of pre-training."""
    evaluate_on: Literal["test", "validation"] = "test"
    """The people whose answers are scored; settings are chosen on `validation`."""
