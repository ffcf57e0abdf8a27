"""Annotation as a stage: of the candidates, and of the answers to the test questions."""

from functools import partial
from typing import Any

from maskdpo_ray.annotation.factory import build_annotator
from maskdpo_ray.annotation.sentences import RULES
from maskdpo_ray.annotation.wording import template_file
from maskdpo_ray.config import AnnotationConfig, ChatModelConfig, PoolConfig, PreferenceConfig
from maskdpo_ray.identity import commit_of, file_digest, model_identity
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.storage import Folder
from maskdpo_ray.stream import StreamStage


def annotation_settings(
    annotation: AnnotationConfig, key: str, preference: PreferenceConfig | None = None
) -> dict[str, Any]:
    """What an annotator's verdicts depend on.

    Args:
        key: where the section stands in the configuration, for errors.
        preference: how pairs are selected, on which it depends what is not asked.
    """
    settings = chat_model_settings(annotation) | {"sentences": RULES}
    if annotation.templates:
        settings["templates"] = file_digest(template_file(annotation.templates))
    if annotation.model:
        settings["model"] = _identity(annotation, key)
    if annotation.prune and preference and (selection := preference.selection()):
        settings["selection"] = selection
    return settings


def chat_model_settings(section: AnnotationConfig | ChatModelConfig) -> dict[str, Any]:
    """What of a section with a chat model decides its replies, beside the weights."""
    settings = section.decides()
    if section.chat_template:
        settings["chat_template"] = file_digest(section.chat_template)
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
    """The stage that fills ``store``; other arguments as of ``build_annotator``."""
    if annotation.model:
        pinned = commit_of(_identity(annotation, key))
        annotation = annotation.model_copy(update={"revision": pinned})
    build = partial(build_annotator, annotation, world, labelled, preference)
    return StreamStage(store, build, pool)


def _identity(annotation: AnnotationConfig, key: str) -> str:
    return model_identity(annotation.model, annotation.revision, f"{key}.model")
