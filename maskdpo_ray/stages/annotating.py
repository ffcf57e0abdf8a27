"""Annotation as a stage: of the candidates, and of the answers to the test questions."""

from functools import partial
from typing import Any

from maskdpo_ray.annotation.sentences import RULES
from maskdpo_ray.config import AnnotationConfig, PoolConfig, PreferenceConfig
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import StreamStage


def verdicts_depend_on(
    annotation: AnnotationConfig, key: str, preference: PreferenceConfig | None = None
) -> dict[str, Any]:
    """What an annotator's verdicts depend on, how answers are cut for it included.

    Args:
        key: where the section stands in the configuration, for errors.
        preference: how pairs are selected, on which it depends what is not asked.
    """
    settings = annotation.kind.identity(annotation, key) | {"sentences": RULES}
    if annotation.prune and preference and (selection := preference.selection()):
        settings["selection"] = selection
    return settings


def annotation_stage(
    store: StageStore,
    annotation: AnnotationConfig,
    key: str,
    world: Folder | None,
    pool: PoolConfig,
    labelled: bool = False,
    preference: PreferenceConfig | None = None,
) -> StreamStage:
    """The stage that fills ``store`` with verdicts; other arguments as of ``build_annotator``.

    Args:
        key: where the section stands in the configuration, for errors.
    """
    annotation = annotation.kind.pinned(annotation, key)
    build = partial(build_annotator, annotation, world, labelled, preference)
    return StreamStage(store, build, pool)


def build_annotator(
    annotation: AnnotationConfig,
    world: Folder | None = None,
    labelled: bool = False,
    preference: PreferenceConfig | None = None,
):
    """The processor of an annotator, inside its actor: ``Annotator.processor``."""
    return annotation.kind.processor(annotation, world, labelled, preference)
