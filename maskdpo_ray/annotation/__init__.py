"""A verdict for every sentence of every candidate."""

from maskdpo_ray.annotation.annotator import Annotator, Mark, Verdict
from maskdpo_ray.config.annotation import AnnotationConfig

__all__ = ["AnnotationConfig", "Annotator", "Mark", "Verdict"]
