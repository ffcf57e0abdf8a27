"""An encoder as annotator: NLI and fact-checking classifiers, or classifiers that mark tokens."""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from maskdpo_ray.annotation.annotator import Annotator, Mark, Verdict
from maskdpo_ray.annotation.details import written
from maskdpo_ray.annotation.encoders import (
    Encoder,
    Window,
    judged,
    marks,
    model_config,
    token_verdicts,
    verdicts_of_labels,
)
from maskdpo_ray.config.annotation import AnnotationConfig
from maskdpo_ray.config.section import Content, How

if TYPE_CHECKING:
    from maskdpo_ray.records import Question

PREMISE = ("document", "question")


class EncoderSettings(AnnotationConfig):
    """A classifier of (premise, sentence), or of the tokens of an answer, through Transformers."""

    model: Content[str]
    """Local folder or hub id."""
    revision: Content[str | None] = None
    """Branch, tag or commit on the hub."""
    task: Literal["sequence", "tokens"] = "sequence"
    """`sequence`: the document supports a sentence, contradicts it, or neither (NLI, MiniCheck).
    `tokens`: the tokens of an answer are marked (LettuceDetect)."""
    labels: dict[str, Literal["ok", "nofact", "contradictory", "unverifiable"]] | None = None
    """The verdict that each label of the model stands for; unset where its names tell."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which a label counts."""
    aggregate: Literal["max", "mean"] = "max"
    """Over the windows of a long document."""
    premise: str = "{document}"
    """What the model is shown beside the sentence or answer; `{document}`, `{question}`."""
    window: int | None = Field(default=None, ge=16)
    """Tokens of premise and sentence together; unset, what the model takes."""
    overlap: int = Field(default=64, ge=0)
    """Tokens that neighbouring windows share."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False
    batch_size: How[int] = Field(default=32, ge=1)
    """Windows in one pass."""

    @field_validator("premise")
    @classmethod
    def _known_places(cls, value: str) -> str:
        try:
            places = {name for _, name, _, _ in Formatter().parse(value) if name is not None}
        except ValueError as error:
            raise ValueError(f"{error}: a brace is written twice") from None
        if unknown := sorted(places - set(PREMISE)):
            raise ValueError(f"{{{unknown[0]}}} is not known; there are {{document}}, {{question}}")
        if "document" not in places:
            raise ValueError("{document} is missing: the model would be shown no reference")
        return value

    @model_validator(mode="after")
    def _of_sequences(self) -> EncoderSettings:
        if self.task == "tokens" and self.changed("aggregate"):
            raise ValueError("aggregate is of task=sequence: remove it")
        return self

    @property
    def kind(self) -> type[Annotator]:
        return {"sequence": SentenceEncoder, "tokens": TokenEncoder}[self.task]

    @property
    def confident(self) -> bool:
        return True

    @property
    def asked(self) -> str:
        return self.model


class _OfEncoder(Annotator):
    """What both kinds have in common."""

    Settings = EncoderSettings
    needs = {"document"}
    tells_confidence = True
    version = "1"
    classifier: ClassVar[str]
    """The Transformers class of the model."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(settings)
        config = model_config(settings.model, settings.revision, "annotation.model")
        self._verdicts = verdicts_of_labels(config, settings.labels, "annotation.labels")
        keys = ("revision", "dtype", "trust_remote_code", "window", "overlap", "batch_size")
        given = {key: getattr(settings, key) for key in keys}
        self._encoder = Encoder(self.classifier, settings.model, **given)

    @classmethod
    def identity(cls, settings: EncoderSettings, key: str) -> dict[str, Any]:
        from maskdpo_ray.identity import model_identity

        config = model_config(settings.model, settings.revision, f"{key}.model")
        verdicts_of_labels(config, settings.labels, f"{key}.labels")  # refused before any work
        named = model_identity(settings.model, settings.revision, f"{key}.model")
        return settings.decides() | {"model": named, "code": cls.version}

    @classmethod
    def pinned(cls, settings: EncoderSettings, key: str) -> EncoderSettings:
        from maskdpo_ray.identity import commit_of, model_identity

        named = model_identity(settings.model, settings.revision, f"{key}.model")
        return settings.model_copy(update={"revision": commit_of(named)})

    def _windows(self, question: Question, text: str) -> list[Window]:
        shown = {key: question[key] for key in PREMISE}
        return self._encoder.windows(self.settings.premise.format(**shown), text)


class SentenceEncoder(_OfEncoder):
    """A classifier takes the document as premise and a sentence as hypothesis (NLI).

    ``detail`` is JSON: the probabilities of the labels in each of the ``windows`` of the document,
    and the ``tokens`` of all.
    """

    classifier = "AutoModelForSequenceClassification"

    async def verdict(self, question: Question, sentence: str) -> Verdict:
        windows = self._windows(question, sentence)
        found = await self._encoder.probabilities(windows)
        verdict, confidence = judged(
            found, self._verdicts, self.settings.threshold, self.settings.aggregate
        )
        tokens = sum(window.length for window in windows)
        detail = written(windows=found.round(4).tolist(), tokens=tokens)
        return Verdict(verdict, detail, round(confidence, 6))


class TokenEncoder(_OfEncoder):
    """Marks the tokens of an answer beside its document.

    A token is judged in the window of the document that supports it most. Neighbours of one verdict
    are one mark, with the mean of their probabilities as its confidence.
    """

    classifier = "AutoModelForTokenClassification"

    async def verdicts(self, question: Question, response: str, sentences: list[str]) -> list[Mark]:
        windows = self._windows(question, response)
        found = await self._encoder.probabilities(windows)
        tokens = token_verdicts(found, self._verdicts, self.settings.threshold)
        spans = [characters for _, characters in windows[0].hypothesis]
        told = zip(spans, tokens, strict=True)
        return marks([(*span, *said) for span, said in told if span[0] < span[1]])
