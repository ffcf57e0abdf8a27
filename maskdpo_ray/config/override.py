"""``section.key=value`` on the command line."""

from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml

from maskdpo_ray.config.run import Config
from maskdpo_ray.config.section import Section
from maskdpo_ray.config.yaml_text import parse_yaml
from maskdpo_ray.errors import UserError


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set what ``section.key=value`` says in a tree of settings.

    The value is YAML; of a setting that is a text it is that text as it stands, so that ``#`` and
    ``:`` need no quotes there. A number names an entry of a list, which must be there.
    """
    key, separator, text = override.partition("=")
    *parents, leaf = key.strip().split(".")
    if not (separator and leaf and all(parents)):
        raise UserError(f"override {override!r} must read section.key=value")
    value = _value(text, override, _is_text(Config, [*parents, leaf], tree))
    node: Any = tree
    for parent in parents:
        child = _within(node, parent)
        if not isinstance(child, dict | list):
            child = {}
        _put(node, parent, child, override)
        node = child
    _put(node, leaf, value, override)


def _put(node: Any, key: str, value: Any, override: str) -> None:
    if not isinstance(node, list):
        node[key] = value
    elif key.isdigit() and int(key) < len(node):
        node[int(key)] = value
    else:
        raise UserError(f"override {override!r}: the list has entries 0 to {len(node) - 1}")


def _value(text: str, override: str, is_text: bool) -> Any:
    stripped = text.strip()
    if is_text and stripped not in ("", "~", "null") and stripped[0] not in "\"'":
        return text
    try:
        value = parse_yaml(text)
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        raise UserError(f"override {override!r}: {text!r} is not a YAML value: {why}") from None
    if node is not None and (rest := text[node.end_mark.index :].strip()):
        raise UserError(
            f"override {override!r}: YAML takes {rest!r} for a comment: put the value in quotes, "
            "or remove it"
        )
    return value


def _is_text(section: Any, keys: list[str], given: Any) -> bool:
    """Whether the setting at ``keys`` is a text and nothing else, or none at all.

    Args:
        given: the tree so far, which tells whose settings an open section has.
    """
    of: Any = section
    for key in keys:
        sections = [each for each in _options(of) if isinstance(each, type)]
        found = next((each for each in sections if issubclass(each, Section)), None)
        found, given = found and found.chosen(given), _within(given, key)
        if found is not None and key in found.model_fields:
            of = found.model_fields[key].annotation
            continue
        entries = next((each for each in _options(of) if get_origin(each) in (dict, list)), None)
        if entries is None:
            return False
        of = get_args(entries)[-1]
    options = [each for each in _options(of) if each is not NoneType]
    return options == [str]


def _options(of: Any) -> list[Any]:
    """What a union or an annotated type stands for."""
    if get_origin(of) is Annotated:
        return _options(get_args(of)[0])
    if get_origin(of) in (Union, UnionType):
        return [found for each in get_args(of) for found in _options(each)]
    return [of]


def _within(given: Any, key: str) -> Any:
    if isinstance(given, list):
        return given[int(key)] if key.isdigit() and int(key) < len(given) else None
    return given.get(key) if isinstance(given, dict) else None
