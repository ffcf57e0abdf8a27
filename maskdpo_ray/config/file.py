"""Reading a configuration: a YAML file, overrides, errors in one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from maskdpo_ray.config.errors import explain
from maskdpo_ray.config.override import apply_override
from maskdpo_ray.config.run import Config
from maskdpo_ray.config.yaml_text import parse_yaml
from maskdpo_ray.errors import UserError


def read_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply ``section.key=value`` overrides, check everything.

    Raises:
        UserError: one line per problem, each with the key, the reason and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no configuration file at {path}")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold `key: value` sections, not {type(tree).__name__}")
    for override in overrides or []:
        apply_override(tree, override)
    return build_config(tree, str(path))


def build_config(tree: dict[str, Any], source: str = "configuration") -> Config:
    """Validate a tree of settings; ``source`` names it in errors."""
    for key, text in _texts(tree):
        if "\0" in text or not _is_unicode(text):
            raise UserError(
                f"{source}: {key}: {text[:80]!r} holds a character that no file can hold, a lone "
                "surrogate or NUL: remove it"
            )
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [explain(problem, Config, tree) for problem in error.errors()]
        raise UserError(f"{source}: " + "; ".join(lines)) from None


def _texts(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text of a tree of settings, names included, with its dotted key."""
    left, seen = [("", tree)], set()
    while left:
        key, value = left.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict | list) and id(value) not in seen:  # YAML can refer to itself
            seen.add(id(value))
            inside = value.items() if isinstance(value, dict) else ((None, each) for each in value)
            for name, each in inside:
                left += [
                    (key or "a key", name),
                    (f"{key}.{name}".strip(".") if name else key, each),
                ]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def differing_keys(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two dumped configurations."""
    keys = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            keys += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            keys.append(f"{prefix}{key}")
    return keys
