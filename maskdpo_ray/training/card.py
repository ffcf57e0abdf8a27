"""The model card of an aligned policy: what it was made from, how, and where training ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskdpo_ray.config import ModelConfig, TrainingConfig

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
    lines += ["Scores on held-out topics stand in the report of the run that made it.", ""]
    for title, table in tables.items():
        lines += [f"## {title}", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in table.items()] + [""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", r"\|")
