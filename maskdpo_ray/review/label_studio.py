"""Disputed sentences as Label Studio tasks, and the labels of its exports.

Its JSON formats: https://labelstud.io/guide/task_format. A task's ``data`` is a row of the review
file, so an export brings everything back that went out.
"""

from collections.abc import Iterable
from typing import Any

from maskdpo_ray.records import CORRECT_VERDICTS, INCORRECT_VERDICTS

LABEL = "label"  # the name of the choice, and of the key in a review file
WORDS = (*CORRECT_VERDICTS, *INCORRECT_VERDICTS)

INTERFACE = f"""<View>
  <Header value="Question"/>
  <Text name="question" value="$question"/>
  <Header value="Answer"/>
  <Text name="response" value="$response"/>
  <Header value="Is this sentence of it true?"/>
  <Text name="sentence" value="$sentence"/>
  <Choices name="{LABEL}" toName="sentence" choice="single" required="true">
{chr(10).join(f'    <Choice value="{word}"/>' for word in WORDS)}
  </Choices>
  <Header value="Reference"/>
  <Text name="document" value="$document"/>
  <Header value="In dispute because"/>
  <Text name="dispute" value="$dispute"/>
</View>
"""


def tasks(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tasks of an import into a project with ``INTERFACE`` as its labelling interface."""
    return [
        {
            "data": {
                **{key: value for key, value in row.items() if key != LABEL},
                "document": row["document"] or "(none)",
                "dispute": "; ".join(row["why"]),
            }
        }
        for row in rows
    ]


def is_task(row: dict[str, Any]) -> bool:
    return isinstance(row.get("annotations"), list) and isinstance(row.get("data"), dict)


def labels_of(task: dict[str, Any]) -> set[str]:
    """What the people who did a task of an export chose; skipped ones chose nothing."""
    return {
        choice
        for annotation in _objects(task["annotations"])
        if not annotation.get("was_cancelled")
        for result in _objects(annotation.get("result"))
        if result.get("from_name") == LABEL and isinstance(result.get("value"), dict)
        for choice in result["value"].get("choices") or []
    }


def _objects(listed: Any) -> list[dict[str, Any]]:
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
