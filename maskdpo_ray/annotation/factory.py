"""Builder of the ``annotate`` stage's processor, called inside its actors, and what it asks of its
input."""

from typing import TYPE_CHECKING

from maskdpo_ray.config import AnnotationConfig, ChatModelConfig, PreferenceConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder

if TYPE_CHECKING:
    from maskdpo_ray.annotation.annotator import Annotate
    from maskdpo_ray.annotation.labels import Labels
    from maskdpo_ray.engine.chat_model import ChatModel
    from maskdpo_ray.engine.endpoint_chat import ChatEndpoint


def build_annotator(
    annotation: AnnotationConfig,
    world: Folder | None = None,
    labelled: bool = False,
    preference: PreferenceConfig | None = None,
) -> "Annotate | Labels":
    """The annotator that the configuration names.

    Args:
        world: folder of the closed world; only ``closed_world`` needs it.
        labelled: ask about the labelled sentences of the input, not about those of our splitter.
        preference: how pairs are selected, for ``annotation.prune``; the paper's way by default.

    Raises:
        UserError: the engine does not start, the endpoint will not do, a template file is wrong,
            or there are no facts.
    """
    from maskdpo_ray.annotation.annotator import Annotate, AnnotateLabelled

    match annotation.annotator:
        case "anah":
            from maskdpo_ray.annotation.anah import AnahAnnotator, read_anah_templates

            templates = read_anah_templates(annotation.templates)
            annotator = AnahAnnotator(chat_model(annotation), templates)
        case "judge":
            from maskdpo_ray.annotation.judge import JudgeAnnotator, read_judge_templates

            templates = read_judge_templates(annotation.templates)
            annotator = JudgeAnnotator(chat_model(annotation, annotation.confidence), templates)
        case "closed_world":
            from maskdpo_ray.annotation.closed_world import ClosedWorldAnnotator

            annotator = ClosedWorldAnnotator(read_facts(world))
            if annotation.error_rate:
                from maskdpo_ray.annotation.erring import Erring

                annotator = Erring(annotator, annotation.error_rate)
        case "labels":
            from maskdpo_ray.annotation.labels import Labels

            return Labels()
    prune = (preference or PreferenceConfig()) if annotation.prune else None
    return (AnnotateLabelled if labelled else Annotate)(annotator, prune=prune)


def needs_document(annotation: AnnotationConfig, language: str) -> bool:
    """Whether the annotator rejects a question of this language that has no document.

    Raises:
        UserError: a template file is wrong.
    """
    if annotation.annotator != "judge":
        return annotation.annotator == "anah"
    from maskdpo_ray.annotation.judge import read_judge_templates, shows_document

    wording = read_judge_templates(annotation.templates).languages.get(language)
    return wording is not None and shows_document(wording)


def read_facts(world: Folder | None) -> dict[str, dict[str, str]]:
    """The truth of a closed world: full name -> kind of fact -> value."""
    if world is None or not world.exists("facts.json"):
        raise UserError(f"annotator 'closed_world' needs the world's facts.json; none in {world}")
    return world.read_json("facts.json")


def chat_model(
    settings: AnnotationConfig | ChatModelConfig, probabilities: bool = False
) -> "ChatModel | ChatEndpoint":
    """The model that a section names, in this process or behind its server.

    Args:
        probabilities: it tells how probable its replies are.

    Raises:
        UserError: the engine does not start, or the endpoint will not do.
    """
    if settings.endpoint:
        from maskdpo_ray.engine.endpoint_chat import open_chat

        constrain = settings.endpoint.constrain
        return open_chat(settings.endpoint, settings.max_tokens, constrain, probabilities)
    from maskdpo_ray.engine.chat_model import ChatModel
    from maskdpo_ray.engine.engine import start_engine

    engine = start_engine(
        settings.model,
        settings.engine,
        dtype=settings.dtype,
        revision=settings.revision,
        chat_template=settings.chat_template,
        trust_remote_code=settings.trust_remote_code,
    )
    return ChatModel(engine, settings.max_tokens, probabilities)
