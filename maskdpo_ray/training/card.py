"""The model card of an aligned policy: what it was made from, how, and where training ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskdpo_ray.config import ModelConfig, TrainingConfig

# The card is written with the model, before anything is evaluated: what stands between these is
# replaced when the scores are known (report/card.py).
EVALUATION = ("<!-- evaluation -->", "<!-- end of evaluation -->")
_NOT_YET = (
    "Not evaluated when this card was written. `maskdpo evaluate` or `maskdpo report` on the run "
    "that made it writes the scores here, where the run has held-out questions."
)

_METHOD = {
    "sentence": (
        "Aligned by Mask-DPO (ICLR 2025): in each preference pair the loss sees the correct "
        "sentences of the chosen answer and the incorrect ones of the rejected answer."
    ),
    "none": "Aligned by vanilla DPO: in each preference pair the loss sees every token.",
}


def model_card(
    base: ModelConfig,
    settings: TrainingConfig,
    seed: int,
    origin: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> str:
    """Markdown, with the front matter that the hub reads.

    Args:
        base: what training started from; named to the hub if it lives there.
        origin: what the pairs came from, and the versions at work.
        figures: metrics of the last step.
    """
    on_hub = not ("://" in base.path or Path(base.path).is_dir())
    front = [f"base_model: {base.path}"] if on_hub else []
    name = base.path.rstrip("/").rpartition("/")[2]
    tables = {
        "Made from": {"base": f"{base.path} {base.revision or ''}".strip(), **origin},
        "Training": {**settings.model_dump(), "dtype": base.dtype, "seed": seed},
        "Last step": figures,
    }
    lines = ["---", *front, "library_name: transformers", "tags: [mask-dpo, dpo]", "---", ""]
    lines += [f"# {name}, aligned for factuality", "", _METHOD[settings.mask], ""]
    lines += ["## Evaluation", "", EVALUATION[0], _NOT_YET, EVALUATION[1], ""]
    for title, table in tables.items():
        lines += [f"## {title}", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in table.items()] + [""]
    return "\n".join(lines)


def with_evaluation(card: str, text: str) -> str | None:
    """The card with ``text`` as its evaluation; None where it has no place for one."""
    before, found, rest = card.partition(EVALUATION[0])
    _, ends, after = rest.partition(EVALUATION[1])
    if not (found and ends):
        return None
    return f"{before}{found}\n{text}\n{ends}{after}"


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", r"\|")
