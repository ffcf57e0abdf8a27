"""The models of a run."""

from dataclasses import dataclass
from typing import Any

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.engine.template import CLOCK
from maskdpo_ray.identity import file_digest


@dataclass(frozen=True)
class Policy:
    """A model that answers: the base, a system after one of its rounds of training, or a further
    one that is only evaluated."""

    name: str
    path: str
    identity: str
    revision: str | None = None
    round: int = 0  # rounds of training behind it

    def stage(self, verb: str) -> str:
        """Name of the stage that makes pairs from this policy's answers."""
        return verb if self.round == 0 else f"{verb}-{self.name}"


def settings_of(model: ModelConfig) -> dict[str, Any]:
    """What of a model section changes answers, beside the weights."""
    template = model.chat_template and file_digest(model.chat_template)
    return model.decides() | {"chat_template": template, "clock": CLOCK.isoformat()}
