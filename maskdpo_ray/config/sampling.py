"""Settings of sampling."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from maskdpo_ray.config.endpoint import EndpointConfig
from maskdpo_ray.config.engine import Engine
from maskdpo_ray.config.section import Section
from maskdpo_ray.engine.arguments import refuse_other_tokenizer
from maskdpo_ray.sampling.seeds import MAX_CANDIDATES


class SamplingConfig(Section):
    """K candidates per question (paper, section 2.2)."""

    source: Literal["vllm", "input"] = "vllm"
    """`vllm` samples from the policy; `input` takes the candidates that the question file has."""
    candidates: int = 32
    """K, the number of candidates per question."""
    temperature: float = Field(default=0.8, gt=0)
    """Above zero: K greedy answers would be one."""
    top_k: int = Field(default=40, ge=0)
    """Sample among this many most likely tokens; 0 among all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    """Longest response, in tokens."""
    engine: Engine = {}
    """Any argument of vLLM's engine, e.g. `max_model_len`, `tensor_parallel_size`."""
    endpoint: EndpointConfig | None = None
    """vLLM's server of the policy; the candidates are then sampled there, not in the actors."""

    @field_validator("candidates")
    @classmethod
    def _at_least_two(cls, value: int) -> int:
        if value < 2:
            raise ValueError("a preference pair needs a best and a worst answer: set 2 or more")
        if value > MAX_CANDIDATES:
            raise ValueError(f"seeds of candidates stand {MAX_CANDIDATES} apart: set at most that")
        return value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "SamplingConfig":
        # The engine is judged by the whole tree: it may be needed to answer the test questions.
        decoding = ("candidates", "temperature", "top_k", "top_p", "max_tokens", "endpoint")
        if self.endpoint and self.endpoint.parameters:
            raise ValueError("endpoint is vLLM's own server and takes all: remove parameters")
        if self.source == "input" and (given := self.changed(*decoding)):
            raise ValueError(f"source 'input' samples nothing: remove {', '.join(given)}")
        refuse_other_tokenizer(self.engine)
        return self
