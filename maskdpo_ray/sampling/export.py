"""Sampled candidates as JSON lines, for a program of somebody else to judge."""

from typing import Any

from maskdpo_ray.annotation.sentences import split_sentences
from maskdpo_ray.questions import as_input
from maskdpo_ray.records import Question


def exported(row: Question) -> dict[str, Any]:
    """A sampled question, cut into sentences, as a line of a file of questions (docs/data.md).

    With a ``label`` in each sentence it comes back as it was: token ids, and whether an answer was
    cut, included (``sampling.source: input``, annotator ``labels``).
    """
    line = {key: value for key, value in as_input(row).items() if key != "prompt_ids"}
    for candidate in line.get("candidates", []):
        text = candidate["response"]
        candidate["sentences"] = [
            {"start": start, "end": end, "text": text[start:end].strip()}
            for start, end in (split_sentences(text, row["language"]) if text else [])
        ]
    return line
