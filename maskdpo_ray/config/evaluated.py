"""Settings of what is evaluated beside the policy and what was trained from it."""

from pydantic import model_validator

from maskdpo_ray.config.endpoint import EndpointConfig
from maskdpo_ray.config.engine import Engine
from maskdpo_ray.config.inputs import ModelConfig
from maskdpo_ray.config.section import Content, Section
from maskdpo_ray.engine.arguments import refuse_other_tokenizer


class EvaluatedConfig(ModelConfig):
    """A model with the settings of `model`, a server, or answers that exist: one of the three."""

    engine: Engine | None = None
    """Any argument of vLLM's engine; those of `sampling.engine` if left out."""
    endpoint: EndpointConfig | None = None
    """An OpenAI-compatible server of a chat model, in place of `path`."""
    responses: Content[str | None] = None
    """JSONL file of answers to the test questions (docs/evaluation.md), in place of `path`."""

    @model_validator(mode="after")
    def _one_of_three(self) -> "EvaluatedConfig":
        given = [key for key in ("path", "endpoint", "responses") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give path, endpoint or responses, one of them (got {' and '.join(given) or None})"
            )
        of_engine = [
            "revision",
            "dtype",
            "chat_template",
            "trust_remote_code",
            "engine",
            "reasoning",
        ]
        of_prompt = ("system_prompt", "chat_template_kwargs")
        if self.endpoint and (ignored := self.changed(*of_engine)):
            raise ValueError(f"the server of endpoint decides {', '.join(ignored)}: remove it here")
        if self.responses and (ignored := self.changed(*of_engine, *of_prompt)):
            raise ValueError(f"answers that exist need no {', '.join(ignored)}: remove it")
        refuse_other_tokenizer(self.engine or {})
        return self


LONGEST_NAME = 100  # bytes: it becomes part of the name of a folder


def names_a_stage(name: str) -> bool:
    """Whether a name may stand in the name of a stage."""
    return name.isidentifier() and len(name.encode()) <= LONGEST_NAME


def check_names(entries: dict[str, Section], what: str) -> None:
    """Raise ``ValueError`` for a name that could not stand in the name of a stage."""
    for name in entries:
        if not names_a_stage(name):
            raise ValueError(
                f"{what}: {name[:80]!r} cannot name one of them: letters, digits and underscores"
            )
