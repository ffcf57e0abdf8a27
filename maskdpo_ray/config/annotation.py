"""Settings of annotation."""

from typing import Literal

from pydantic import Field, model_validator

from maskdpo_ray.config.endpoint import AnnotatorEndpointConfig
from maskdpo_ray.config.engine import Engine
from maskdpo_ray.config.section import Content, Section

CLOSED_BOOK = "closed_book"  # the wording of ours that `templates` may name in place of a file
AnnotatorName = Literal["anah", "judge", "closed_world", "labels"]


class AnnotationConfig(Section):
    """A verdict for every sentence of every candidate."""

    annotator: AnnotatorName = "anah"
    """`anah`: three turns; `judge`: any chat model; `closed_world`; `labels`: in the input."""
    model: Content[str | None] = None
    """Local folder or hub id of the annotating model (`anah`, `judge`)."""
    revision: Content[str | None] = None
    """Branch, tag or commit on the hub."""
    chat_template: Content[str | None] = None
    """File with a Jinja chat template that replaces the tokenizer's own."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    templates: Content[str | None] = None
    """YAML file that replaces the prompt wording; or `closed_book`, the wording of ours with which
    `judge` goes by what its model knows and needs no document."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest reply of one annotator turn, in tokens."""
    trust_remote_code: bool = False
    prune: bool = False
    """Leave candidates that can no longer become best or worst: fewer calls, the same pairs."""
    confidence: bool = False
    """Keep the probability that `judge` gives its verdict, for `preference.weights: confidence`."""
    error_rate: float = Field(default=0, ge=0, lt=0.5)
    """Share of verdicts that `closed_world` turns into their opposite, with a calibrated
    confidence: what errors of an annotator do to training."""
    engine: Engine = {}
    """Any argument of vLLM's engine."""
    endpoint: AnnotatorEndpointConfig | None = None
    """A server of the annotating model, in place of `model` in the actors."""

    @model_validator(mode="after")
    def _model_where_needed(self) -> "AnnotationConfig":
        if self.asks_model and not (self.model or self.endpoint):
            raise ValueError(f"annotator {self.annotator!r} needs annotation.model or endpoint")
        of_model = ("model", "revision", "chat_template", "dtype", "templates", "max_tokens")
        of_model += ("trust_remote_code", "engine", "endpoint")
        if not self.asks_model and (given := self.changed(*of_model)):
            raise ValueError(f"annotator {self.annotator!r} uses no {', '.join(given)}: remove it")
        if self.templates == CLOSED_BOOK and self.annotator != "judge":
            raise ValueError(
                f"templates={CLOSED_BOOK} is a wording of annotator 'judge', and "
                f"{self.annotator!r} reads documents: set annotator=judge, or remove templates"
            )
        if self.confidence and self.annotator != "judge":
            raise ValueError(
                f"annotator {self.annotator!r} tells no probability that could be asked for: "
                "remove confidence"
            )
        if self.error_rate and self.annotator != "closed_world":
            raise ValueError("error_rate is of annotator 'closed_world': remove it")
        if self.annotator == "labels" and self.prune:
            raise ValueError("annotator 'labels' asks nothing: remove prune")
        return self

    @model_validator(mode="after")
    def _model_or_endpoint(self) -> "AnnotationConfig":
        if self.endpoint is None:
            return self
        of_engine = ("model", "revision", "chat_template", "dtype", "trust_remote_code", "engine")
        if given := self.changed(*of_engine):
            raise ValueError(f"the server of endpoint decides {', '.join(given)}: remove it here")
        constrain = self.endpoint.constrain
        if self.annotator == "judge" and constrain is None:
            raise ValueError(
                "endpoint.constrain is missing: vllm for vLLM's server, json_schema for others "
                "that know response_format, none for the rest"
            )
        if self.confidence and constrain != "vllm":
            raise ValueError(
                f"endpoint.constrain={constrain} gives no probability of a verdict alone: remove "
                "confidence, or use vLLM's server"
            )
        if self.annotator == "anah" and constrain is not None:
            raise ValueError("annotator 'anah' replies freely: remove endpoint.constrain")
        return self

    @property
    def asks_model(self) -> bool:
        """Whether verdicts are a model's."""
        return self.annotator in ("anah", "judge")

    @property
    def confident(self) -> bool:
        """Whether verdicts come with a confidence."""
        return self.confidence or self.error_rate > 0

    @property
    def asked(self) -> str | None:
        """The annotating model, in the actors or at its server."""
        return self.endpoint.model if self.endpoint else self.model

    @property
    def who(self) -> dict[str, str | None]:
        """Who judges, as reports say it."""
        return {"annotator": self.annotator, "model": self.asked}
