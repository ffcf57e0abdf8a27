"""What the annotators that ask a chat model have in common."""

from typing import Any, ClassVar

from pydantic import model_validator

from maskdpo_ray.annotation.annotator import Annotator
from maskdpo_ray.annotation.wording import is_ours, our_file, template_file
from maskdpo_ray.config.annotation import AnnotationConfig
from maskdpo_ray.config.chat_model import ChatModelConfig
from maskdpo_ray.config.section import Content


class ChatSettings(ChatModelConfig, AnnotationConfig):
    """A chat model and what it is shown."""

    templates: Content[str | None] = None
    """YAML file that replaces the prompt wording, or the name of another one of ours."""

    @model_validator(mode="after")
    def _wording_of_its_own(self) -> "ChatSettings":
        named = self.templates
        if named and is_ours(named) and named not in self.kind.other_wordings:
            raise ValueError(
                f"templates={named} is no wording of annotator {self.annotator!r}: remove it, or "
                "take the annotator that it is of (docs/annotators.md)"
            )
        return self


class ChatAnnotator(Annotator):
    """Asks a chat model about every sentence."""

    Settings = ChatSettings
    wording: ClassVar[str]
    """The file of our wording."""
    other_wordings: ClassVar[tuple[str, ...]] = ()
    """Names of others of ours that ``templates`` may name."""
    failures = ()
    version = "1"

    @classmethod
    def identity(cls, settings: ChatSettings, key: str) -> dict[str, Any]:
        from maskdpo_ray.identity import chat_model_identity, file_digest

        shown = template_file(settings.templates) if settings.templates else our_file(cls.wording)
        return (
            settings.decides()
            | chat_model_identity(settings, key)
            | {"templates": file_digest(shown), "code": cls.version}
        )

    @classmethod
    def pinned(cls, settings: ChatSettings, key: str) -> ChatSettings:
        from maskdpo_ray.identity import pinned

        return pinned(settings, key)
