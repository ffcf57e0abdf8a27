"""What is wrong with a setting, in words: the key, the reason, the nearest valid key."""

import difflib
from typing import Any, get_args, get_origin

from maskdpo_ray.config.from_trl import OURS
from maskdpo_ray.config.section import Section, options
from maskdpo_ray.config.training import OF_ALL_SYSTEMS

# Where people write what another trainer is told in one place.
_LIKE_A_TRAINER = ("training", "systems", "model", "preference", "tracking")


def explain(problem: Any, section: type[Section], given: Any, prefix: str = "") -> str:
    """One problem of a ``ValidationError`` in ``section``, whose key begins with ``prefix``.

    Args:
        given: what was to be validated.
    """
    location = [str(part) for part in problem["loc"]]
    key = prefix + ".".join(location) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}: {_remedy(key, section, location, given)}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = f" (got {problem['input']!r})" if not isinstance(problem["input"], dict) else ""
    return f"{key}: {message}{given}"


def _remedy(key: str, section: type[Section], location: list[str], given: Any) -> str:
    *parents, name = key.split(".")
    if name in OURS and (not parents or parents[0] in _LIKE_A_TRAINER):
        ours, note = OURS[name]
        part, _, rest = ours.partition(".")
        if parents[:1] == ["systems"] and part == "training" and rest not in OF_ALL_SYSTEMS:
            ours = ".".join([*parents[:2], rest])
        return f"set {ours}" + (f" ({note})" if note else "")
    section = section_at(section, location[:-1], given)
    if where := section.elsewhere(name):
        return where
    valid = list(section.model_fields)
    near = difflib.get_close_matches(location[-1], valid, n=1)
    return f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(sorted(valid))}"


def section_at(section: Any, location: list[str], given: Any) -> type[Section]:
    """The section at a place of a tree; ``given`` is the tree."""
    parts = iter(location)
    for part in parts:
        allowed, given = options(section.model_fields[part].annotation), _within(given, part)
        allowed = allowed or [(section.model_fields[part].annotation, ())]
        entries = next((each for each, _ in allowed if get_origin(each) in (dict, list)), None)
        if entries:
            given = _within(given, next(parts))  # the name of an entry, or its place
            entry = get_args(entries)[-1]
            allowed = options(entry) or [(entry, ())]
        sections = (each for each, _ in allowed if isinstance(each, type))
        section = next(each for each in sections if issubclass(each, Section)).chosen(given)
    return section


def _within(given: Any, key: str) -> Any:
    if isinstance(given, list) and key.isdigit() and int(key) < len(given):
        return given[int(key)]
    return given.get(key) if isinstance(given, dict) else None
