"""YAML as settings need it: a key that stands twice is an error, not its last value."""

import re
from typing import Any

import yaml

_INT, _FLOAT, _DATE = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))


class _OnceEach(yaml.SafeLoader):
    # No setting is a date: a branch or version that looks like one is a text. Numbers are those of
    # YAML 1.2: 010 is ten and not eight, 1:30 no number at all, and 1e-5 is one.
    yaml_implicit_resolvers = {
        first: [each for each in resolvers if each[0] not in (_INT, _FLOAT, _DATE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (first := lines.get(key.value)) is not None:
                raise yaml.YAMLError(
                    f"{key.value!r} stands twice, in lines {first} and {key.start_mark.line + 1}: "
                    "only one would count; merge the two"
                )
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


class _Quoting(yaml.SafeDumper):
    """Quotes a text that any reader, of YAML 1.1 or 1.2, could take for a number."""


_NUMBERS = {
    _INT: r"[-+]?(?:0|[1-9][\d_]*)$|0x[\da-fA-F]+$",
    _FLOAT: r"[-+]?(?:\d[\d_]*\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$",
}
for _tag, _pattern in _NUMBERS.items():
    for _each in (_OnceEach, _Quoting):
        _each.add_implicit_resolver(_tag, re.compile(_pattern, re.ASCII), list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is none; a key stands twice in one mapping; it is nested too deeply, or
            holds a number that nothing can hold.
    """
    try:
        return yaml.load(text, _OnceEach)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as error:  # digits without end
        raise yaml.YAMLError(str(error)) from None


def dump_yaml(tree: Any) -> str:
    """A YAML text that ``parse_yaml`` reads back."""
    return yaml.dump(tree, Dumper=_Quoting, sort_keys=False, allow_unicode=True)
