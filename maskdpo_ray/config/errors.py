"""What is wrong with a setting, in words: the key, the reason, the nearest valid key."""

import difflib
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from maskdpo_ray.config.from_trl import OURS
from maskdpo_ray.config.training import OF_ALL_SYSTEMS

# Where people write what another trainer is told in one place.
_LIKE_A_TRAINER = ("training", "systems", "model", "preference", "tracking")


def explain(problem: Any, section: type[BaseModel], prefix: str = "") -> str:
    """One problem of a ``ValidationError`` in ``section``, whose key begins with ``prefix``."""
    location = [str(part) for part in problem["loc"]]
    key = prefix + ".".join(location) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}: {_remedy(key, section, location)}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = f" (got {problem['input']!r})" if not isinstance(problem["input"], dict) else ""
    return f"{key}: {message}{given}"


def _remedy(key: str, section: type[BaseModel], location: list[str]) -> str:
    *parents, name = key.split(".")
    if name in OURS and (not parents or parents[0] in _LIKE_A_TRAINER):
        ours, note = OURS[name]
        part, _, rest = ours.partition(".")
        if parents[:1] == ["systems"] and part == "training" and rest not in OF_ALL_SYSTEMS:
            ours = ".".join([*parents[:2], rest])
        return f"set {ours}" + (f" ({note})" if note else "")
    valid = _fields_at(section, location[:-1])
    near = difflib.get_close_matches(location[-1], valid, n=1)
    return f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(sorted(valid))}"


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
