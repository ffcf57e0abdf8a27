"""Settings of evaluation."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from maskdpo_ray.config.annotation import AnnotationConfig, AnyAnnotation
from maskdpo_ray.config.evaluated import EvaluatedConfig, check_names
from maskdpo_ray.config.factscore import FactScoreConfig
from maskdpo_ray.config.lm_eval import LmEvalConfig
from maskdpo_ray.config.section import Report, Section
from maskdpo_ray.config.short_form import ShortFormConfig
from maskdpo_ray.config.win_rate import WinRateConfig


def _facts(value: Any) -> Any:
    if value != "median" and not (type(value) is int and value >= 1):
        raise ValueError("a number of facts of at least 1, or median")
    return value


class EvaluationConfig(Section):
    """Sentence score on held-out topics, greedy and sampled, and best-of-N."""

    samples: int = Field(default=16, ge=1)
    """Sampled answers per question: for the sampled score and for every N of best-of-N."""
    best_of_n: Report[list[int]] = [1, 2, 4, 8, 16]
    temperature: float = Field(default=0.8, gt=0)
    top_k: int = Field(default=40, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    bootstrap: Report[int] = Field(default=2000, ge=100)
    """Resamples of the topics for the 95 % interval."""
    f1_k: Report[Annotated[int | Literal["median"], BeforeValidator(_facts)]] = "median"
    """K of F1@K, the facts that a reader wants of an answer: a number, or the median of the base's
    greedy answers."""
    annotation: AnyAnnotation | None = None
    """The examiner; the annotator that made the pairs if left out."""
    judges: dict[str, AnyAnnotation] | None = None
    """Further examiners of the same answers, by name: their scores stand beside the examiner's. If
    left out, the policy judges beside an examiner that is a model; `{}` is nobody."""
    models: dict[str, EvaluatedConfig] = {}
    """Further models, servers and given answers, by name: evaluated beside base and systems."""
    factscore: FactScoreConfig | None = None
    """FActScore of the same answers, beside the sentence score."""
    win_rate: WinRateConfig | None = None
    """A judge that prefers a system's answers, or the base's."""
    short_form: ShortFormConfig | None = None
    """Grades of the same answers by reference answers, where the questions have some."""
    lm_eval: LmEvalConfig | None = None
    """Tasks of lm-evaluation-harness on every model that runs here."""

    @model_validator(mode="after")
    def _enough_samples(self) -> "EvaluationConfig":
        if not self.best_of_n or min(self.best_of_n) < 1:
            raise ValueError("best_of_n must list whole numbers of at least 1")
        if max(self.best_of_n) > self.samples:
            raise ValueError(
                f"best_of_n asks for {max(self.best_of_n)} of {self.samples} samples: "
                f"set evaluation.samples={max(self.best_of_n)}"
            )
        if self.annotation and "verdicts" in self.annotation.needs:
            raise ValueError(
                f"annotation: annotator {self.annotation.annotator!r} cannot judge new answers"
            )
        if self.annotation:
            _only_examines(self.annotation, "evaluation.annotation")
        return self

    @model_validator(mode="after")
    def _judges(self) -> "EvaluationConfig":
        judges = self.judges or {}
        check_names(judges, "judges")
        for name, judge in judges.items():
            if "verdicts" in judge.needs:
                raise ValueError(
                    f"judges.{name}: annotator {judge.annotator!r} cannot judge new answers"
                )
            _only_examines(judge, f"judges.{name}")
        return self

    @model_validator(mode="after")
    def _models(self) -> "EvaluationConfig":
        check_names(self.models, "models")
        if "base" in self.models:
            raise ValueError("models: 'base' is the policy before training: choose another name")
        return self


def _only_examines(annotation: AnnotationConfig, key: str) -> None:
    """Refuse what is of pairs."""
    if annotation.prune:
        raise ValueError(f"a score needs a verdict on every sentence: remove {key}.prune")
    if annotation.overrides:
        raise ValueError(
            f"overrides are of pairs, and an examiner makes none: remove {key}.overrides"
        )
