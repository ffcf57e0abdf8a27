"""Settings of short answers held against reference answers."""

from typing import Literal

from pydantic import Field, model_validator

from maskdpo_ray.config.chat_model import ChatModelConfig
from maskdpo_ray.config.section import Content, Section


class ShortFormConfig(Section):
    """Correct, incorrect or not attempted, by the reference answers of the test questions
    (docs/evaluation.md)."""

    judge: ChatModelConfig | None = None
    """The model that grades; by the words of the reference answers alone if left out."""
    templates: Content[str | None] = None
    """YAML file that replaces the judge's wording."""
    decodings: list[Literal["greedy", "sampled"]] = Field(default=["greedy"], min_length=1)
    """Which answers are graded."""

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "ShortFormConfig":
        if self.templates and not self.judge:
            raise ValueError("templates is the wording of a judge: give judge, or remove it")
        if self.judge and self.judge.endpoint and self.judge.endpoint.constrain is None:
            raise ValueError(
                "judge.endpoint.constrain is missing: vllm for vLLM's server, json_schema for "
                "others that know response_format, none for the rest"
            )
        if len(set(self.decodings)) < len(self.decodings):
            raise ValueError("decodings names one twice")
        return self
