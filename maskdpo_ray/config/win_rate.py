"""Settings of the win rate against the base."""

from pydantic import Field, model_validator

from maskdpo_ray.config.chat_model import ChatModelConfig
from maskdpo_ray.config.section import Content, Report


class WinRateConfig(ChatModelConfig):
    """Which answer a judge prefers, a system's or the base's (docs/evaluation.md)."""

    templates: Content[str | None] = None
    """YAML file that replaces the wording."""
    length_ratio: Report[float] = Field(default=1.25, gt=1)
    """Beside it stands the win rate over answers of similar length: of which the longer has at most
    so many times the characters of the shorter."""

    @model_validator(mode="after")
    def _constrained(self) -> "WinRateConfig":
        if self.endpoint and self.endpoint.constrain is None:
            raise ValueError(
                "endpoint.constrain is missing: vllm for vLLM's server, json_schema for others "
                "that know response_format, none for the rest"
            )
        return self
