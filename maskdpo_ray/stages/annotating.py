"""Annotation as a stage: of the candidates, and of the answers to the test questions."""

from functools import partial
from typing import Any

from maskdpo_ray.annotation.sentences import RULES
from maskdpo_ray.config import AnnotationConfig, PoolConfig, PreferenceConfig
from maskdpo_ray.identity import commit_of, model_identity
from maskdpo_ray.knowledge.database import knowledge_identity
from maskdpo_ray.model_files import local_file
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
    if annotation.knowledge:
        settings["knowledge"] = knowledge_identity(local_file(annotation.knowledge))
    if annotation.embedding:
        of = (annotation.embedding, annotation.embedding_revision, f"{key}.embedding")
        settings["embedding"] = model_identity(*of)
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
    if annotation.embedding:
        of = (annotation.embedding, annotation.embedding_revision, f"{key}.embedding")
        commit = commit_of(model_identity(*of))
        annotation = annotation.model_copy(update={"embedding_revision": commit})
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
