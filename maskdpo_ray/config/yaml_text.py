"""YAML as settings need it: a key that stands twice is an error, not its last value."""

from typing import Any

import yaml


class _OnceEach(yaml.SafeLoader):
    # No setting is a date: a branch or version that looks like one is a text.
    yaml_implicit_resolvers = {
        first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:timestamp"]
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
