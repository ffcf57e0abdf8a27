"""Where the tests stand, and how they read rows: for files beside any ``conftest.py``, a name that
several folders have."""

import json
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def read_jsonl(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
