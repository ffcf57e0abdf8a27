"""Settings of the FActScore evaluator."""

from typing import Any, Literal

from pydantic import Field, model_validator

from maskdpo_ray.config.chat_model import ChatModelConfig
from maskdpo_ray.config.section import Content, Report, Section


class FactScoreConfig(Section):
    """FActScore of the answers to held-out questions (docs/factscore.md)."""

    writer: ChatModelConfig
    """The model that takes sentences apart into facts."""
    verifier: ChatModelConfig | None = None
    """The model that verifies them; the writer if left out."""
    knowledge: Content[str | None] = None
    """Database of pages (`maskdpo knowledge`); a path or URL that all nodes reach."""
    retrieval: Literal["bm25", "dense"] = "bm25"
    embedding: Content[str | None] = None
    """Local folder or hub id of the encoder of `dense`, its hidden states mean-pooled."""
    embedding_revision: Content[str | None] = None
    """Branch, tag or commit of the encoder on the hub."""
    k: int = Field(default=5, ge=1)
    """Passages of the page that the verifier is shown."""
    gamma: Report[float] = Field(default=10, gt=0)
    """Facts below which the length penalty sets in."""
    templates: Content[str | None] = None
    """YAML file that replaces the wording and the demonstrations."""
    demonstrations: int = Field(default=4, ge=0)
    """Demonstrations that the writer is shown with each sentence, the closest ones."""
    decodings: list[Literal["greedy", "sampled"]] = Field(default=["greedy"], min_length=1)
    """Which answers are examined."""

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "FactScoreConfig":
        if self.retrieval == "dense" and not self.embedding:
            raise ValueError("retrieval=dense needs embedding, the encoder of passages and queries")
        if self.retrieval == "bm25" and (given := self.changed("embedding", "embedding_revision")):
            raise ValueError(f"retrieval=bm25 uses no {given[0]}: remove it, or set dense")
        if len(set(self.decodings)) < len(self.decodings):
            raise ValueError("decodings names one twice")
        return self

    @model_validator(mode="after")
    def _two_models(self) -> "FactScoreConfig":
        if self.verifier and self.writer.model and self.verifier.model:
            raise ValueError(
                "an actor holds one engine, and this asks for two: leave verifier out, or give "
                "one of writer and verifier an endpoint"
            )
        verifying = self.verifier or self.writer
        if verifying.endpoint and verifying.endpoint.constrain is None:
            raise ValueError(
                "endpoint.constrain of the verifying model is missing: vllm for vLLM's server, "
                "json_schema for others that know response_format, none for the rest"
            )
        if self.verifier and self.writer.endpoint and self.writer.endpoint.constrain:
            raise ValueError("the writer replies freely: remove writer.endpoint.constrain")
        return self

    @property
    def models(self) -> dict[str, ChatModelConfig]:
        """The models by their key: one where the writer verifies too."""
        return {"writer": self.writer} | ({"verifier": self.verifier} if self.verifier else {})

    @property
    def engine(self) -> dict[str, Any]:
        """Arguments of the engine in the actors; empty where both models are behind servers."""
        return next((of.engine for of in self.models.values() if of.model), {})
