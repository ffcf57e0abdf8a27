"""What ``maskdpo topics`` is told on its command line."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from maskdpo_ray.config.data import ColumnsConfig, SourceConfig
from maskdpo_ray.config.inputs import ModelConfig
from maskdpo_ray.config.section import Section

OF_A_MODEL = ("model", "revision", "dtype", "pooling", "layer", "text", "trust_remote_code")


class TopicsConfig(Section):
    """Topics to choose from a pool, for the questions one cares about."""

    pool: SourceConfig
    target: SourceConfig = Field(alias="for")
    columns: ColumnsConfig = ColumnsConfig()
    budget: int = Field(ge=1)
    """Topics to choose."""
    diversity: float = Field(default=0.0, ge=0, le=1)
    """Weight of being unlike what is chosen already (topics/choose.py)."""
    embedding: Literal["policy", "random"] = "policy"
    model: str | None = None
    """Folder, URL or hub id: the policy, or any other model that embeds texts."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    """Unset, bfloat16 on a GPU and float32 on a CPU, which takes many times as long in 16 bits."""
    trust_remote_code: bool = False
    pooling: Literal["framed", "mean", "mean_all", "last"] | None = None
    """How a text's states become a vector; unset, `framed` for a causal model, `mean` for an
    encoder."""
    layer: int | None = Field(default=None, ge=0)
    text: Literal["topic", "topic+questions"] = "topic"
    """What is embedded."""
    seed: int = 0
    out: str = Field(min_length=1)

    @field_validator("pool", "target", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "TopicsConfig":
        if self.embedding == "random":
            if given := self.changed(*OF_A_MODEL):
                raise ValueError(
                    f"--{given[0].replace('_', '-')} is of a model's embedding: remove it, or "
                    "--embedding random"
                )
        elif self.model is None:
            raise ValueError("--model is missing: the policy's folder or hub id")
        elif self.changed("seed"):
            raise ValueError("--seed is of --embedding random: remove it")
        if not self.out.endswith(".jsonl"):
            raise ValueError(f"--out {self.out} must end in .jsonl")
        return self

    def of_model(self, on_gpu: bool) -> ModelConfig:
        keys = ("revision", "trust_remote_code")
        dtype = self.dtype or ("bfloat16" if on_gpu else "float32")
        given = {key: getattr(self, key) for key in keys}
        return ModelConfig(path=self.model, dtype=dtype, **given)
