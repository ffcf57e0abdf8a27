"""Prompt wordings in YAML files: read, checked, and filled in."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from maskdpo_ray.config import parse_yaml
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.texts import LANGUAGES

if TYPE_CHECKING:
    from maskdpo_ray.records import Question

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
OURS = "maskdpo_ray.annotation"


@dataclass(frozen=True)
class Templates:
    """The wording of an annotator.

    Attributes:
        file: what to call it in errors.
        languages: language -> name -> text.
    """

    file: str
    languages: dict[str, dict[str, Any]]

    def of(self, question: Question) -> dict[str, Any]:
        """The wording in a question's language, or ``RowRejected`` where the file has none."""
        language = question["language"]
        if language not in self.languages:
            raise RowRejected(
                "no_template",
                f"question {question['id']!r} is in language {language!r} and {self.file} has "
                f"only {', '.join(self.languages)}: add it to the file",
            )
        return self.languages[language]


def template_file(setting: str) -> Path:
    """The file that a setting ``templates`` names: one of ours by its plain name, or the user's."""
    return our_file(f"{setting}.yaml") if is_ours(setting) else Path(setting)


def is_ours(setting: str) -> bool:
    """Whether a setting ``templates`` is the name of a wording of ours."""
    return setting.isidentifier() and our_file(f"{setting}.yaml").is_file()


def read_templates(
    path: str | None,
    default: str,
    package: str = OURS,
    key: str = "annotation.templates",
) -> Templates:
    """Read a template file.

    Args:
        path: as of ``template_file``, or None for the ``default`` of ``package``.
        key: the setting that ``path`` comes from, for errors.

    Raises:
        UserError: the file is missing or holds no mapping of languages.
    """
    file = template_file(path) if path else our_file(default, package)
    if not file.is_file():
        raise UserError(f"{key}: no file at {path}")
    name = str(path or default)
    try:
        tree = parse_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{name} must hold one mapping per language (en, zh)")
    for language, wording in tree.items():
        if language not in LANGUAGES:
            known = ", ".join(LANGUAGES)
            raise UserError(f"{name}: no question is in language {language!r}; known: {known}")
        if not isinstance(wording, dict):
            raise UserError(f"{name}: {language} must map names to texts")
    return Templates(name, tree)


def check_wording(
    wording: Any, place: str, required: Collection[str], optional: Collection[str] = ()
) -> None:
    """Raise ``UserError`` unless ``wording`` is a text with the placeholders that belong there."""
    if not isinstance(wording, str) or not wording.strip():
        raise UserError(f"{place} is missing: give it a text with {_braced(required)}")
    found = set(PLACEHOLDER.findall(wording))
    if missing := set(required) - found:
        raise UserError(f"{place} lacks {_braced(missing)}")
    if unknown := found - set(required) - set(optional):
        raise UserError(
            f"{place} has {_braced(unknown)}, which nothing fills in; "
            f"it may use {_braced([*required, *optional])}"
        )


def check_choices(words: Any, place: str, names: Collection[str]) -> None:
    """Raise ``UserError`` unless ``words`` gives each of the names a word of its own."""
    if not isinstance(words, dict) or set(words) != set(names):
        raise UserError(f"{place} must give a word each for {', '.join(names)}")
    check_apart(words.values(), place)


def check_apart(words: Collection[Any], place: str) -> None:
    """Raise ``UserError`` unless these are words that replies can be told apart by."""
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise UserError(f"{place}: each needs a word; quote yes, no, on and off")
    if spaced := [word for word in words if word != word.strip()]:
        raise UserError(f"{place}: {spaced[0]!r} has white space around it: remove that")
    if len({word.casefold() for word in words}) < len(words):
        raise UserError(f"{place}: two share a word")


def fill(wording: str, values: Mapping[str, str]) -> str:
    """Put values in place of placeholders, in one pass: braces inside a value stay as they are."""
    return PLACEHOLDER.sub(lambda match: values[match[1]], wording)


def our_file(name: str, package: str = OURS) -> Path:
    """A wording of ours."""
    return Path(str(files(package) / "templates" / name))


def _braced(names: Collection[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))
