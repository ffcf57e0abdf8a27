"""What stands in the ``detail`` of a verdict, where that is a JSON object."""

import json
from typing import Any


def told(detail: str) -> dict[str, Any]:
    """The object; of any other text an empty one."""
    try:
        found = json.loads(detail) if detail.startswith("{") else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def written(**entries: Any) -> str:
    """A detail with these entries, without those that nobody knows."""
    known = {name: value for name, value in entries.items() if value is not None}
    return json.dumps(known, ensure_ascii=False)


def tokens_of(detail: str) -> int | None:
    """What was read and written for a verdict, where its annotator tells (``tokens``)."""
    found = told(detail).get("tokens")
    return found if type(found) is int else None


def decided_by(detail: str) -> str | None:
    """Which of several annotators decided a sentence."""
    found = told(detail).get("decided_by")
    return found if isinstance(found, str) else None
