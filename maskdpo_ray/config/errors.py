"""What is wrong with a setting, in words: the key, the reason, the nearest valid key."""

import difflib
from typing import Any, get_args, get_origin

from pydantic import BaseModel


def explain(problem: Any, section: type[BaseModel], prefix: str = "") -> str:
    """One problem of a ``ValidationError`` in ``section``, whose key begins with ``prefix``."""
    location = [str(part) for part in problem["loc"]]
    key = prefix + ".".join(location) or "configuration"
    if problem["type"] == "extra_forbidden":
        valid = _fields_at(section, location[:-1])
        near = difflib.get_close_matches(location[-1], valid, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(sorted(valid))}"
        return f"unknown key {key!r}: {hint}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = f" (got {problem['input']!r})" if not isinstance(problem["input"], dict) else ""
    return f"{key}: {message}{given}"


def _fields_at(section: Any, location: list[str]) -> list[str]:
    parts = iter(location)
    for part in parts:
        annotation = section.model_fields[part].annotation
        options = [annotation, *get_args(annotation)]
        if entries := next((each for each in options if get_origin(each) is dict), None):
            next(parts)  # the name of an entry
            options = get_args(entries)
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(section.model_fields)
