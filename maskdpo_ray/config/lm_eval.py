"""Settings of tasks of lm-evaluation-harness."""

from pydantic import Field, model_validator

from maskdpo_ray.config.engine import Engine
from maskdpo_ray.config.section import Content, How, Section


class LmEvalConfig(Section):
    """Tasks of lm-evaluation-harness, to see what factuality cost elsewhere
    (docs/evaluation.md). The extra `lm-eval` installs it."""

    tasks: How[list[str]] = Field(min_length=1)
    """Names of tasks or groups, as the harness knows them. What is done stays when one is added."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first examples of each task."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples in the prompt; what the task says if left out."""
    apply_chat_template: bool = False
    """Ask through the model's chat template, with `model.system_prompt`."""
    include_path: Content[str | None] = None
    """Folder with YAML files of further tasks; every node reaches it."""
    engine: Engine | None = None
    """Any argument of vLLM's engine; those that the model answers with if left out."""

    @model_validator(mode="after")
    def _once(self) -> "LmEvalConfig":
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks names one twice")
        return self
