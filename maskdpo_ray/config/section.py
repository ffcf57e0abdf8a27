"""What every section of the settings is: strict, frozen, its docstrings its documentation; and each
setting says what it is where it is defined: ``concurrency: How[int] = 64``.

A setting that says nothing decides the result. Fingerprints, the check of another configuration in
the same run directory and what is saved with a run follow from these words.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Kind(Enum):
    """What a setting is."""

    DECIDES = "decides the result of every stage that reads it"
    CONTENT = "names a file or a model: what it holds decides, wherever it lies"
    REPORT = "decides what the report reads off finished results"
    HOW = "says how the work is done, with the same result"
    WHERE = "says where things run or lie"
    SECRET = "is told to nobody: saved nowhere, part of nothing"


Content = Annotated[T, Kind.CONTENT]
Report = Annotated[T, Kind.REPORT]
How = Annotated[T, Kind.HOW]
Where = Annotated[T, Kind.WHERE]
Secret = Annotated[T, Kind.SECRET]


class Keys:
    """Marks a mapping whose keys are no fields: what each of them is. Others decide."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds = kinds


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def chosen(cls, given: Any) -> type["Section"]:
        """The section that a mapping is of: this one, where it is not open to others."""
        return cls

    @classmethod
    def elsewhere(cls, key: str) -> str | None:
        """Where a key belongs that this section has not, in words."""
        return None

    def changed(self, *keys: str) -> list[str]:
        """Those of ``keys`` that differ from their defaults; a saved file holds every key."""
        return [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]

    def only(self, *kinds: Kind) -> dict[str, Any]:
        """The settings of these kinds, in JSON's types; of a section within, those of them."""
        return self.model_dump(mode="json", exclude=_other_keys(self, kinds))

    def decides(self) -> dict[str, Any]:
        """What a fingerprint holds; what is named by its content is added by who can read it."""
        return self.only(Kind.DECIDES)

    def identity(self) -> dict[str, Any]:
        """What makes a run what it is: a run directory goes on with no other."""
        return self.only(Kind.DECIDES, Kind.CONTENT)

    def saved(self) -> dict[str, Any]:
        """What is kept on disk."""
        return self.only(*(kind for kind in Kind if kind is not Kind.SECRET))


def kinds_of(section: type[BaseModel]) -> dict[str, Kind]:
    """What each setting of a section is."""
    return {
        name: next((mark for mark in field.metadata if isinstance(mark, Kind)), Kind.DECIDES)
        for name, field in section.model_fields.items()
    }


def _other_keys(section: Section, kinds: tuple[Kind, ...]) -> dict[str, Any]:
    """What ``model_dump`` excludes so that settings of these kinds remain."""
    fields, others = type(section).model_fields, {}
    for name, kind in kinds_of(type(section)).items():
        field = fields[name]
        within = _other_entries(getattr(section, name), field.annotation, field.metadata, kinds)
        if kind not in kinds or within:
            others[name] = within if kind in kinds else True
    return others


def _other_entries(
    value: Any, of: Any, marks: Sequence[Any], kinds: tuple[Kind, ...]
) -> dict[Any, Any]:
    """The same of a value of the type ``of`` with these marks."""
    if isinstance(value, Section):
        return _other_keys(value, kinds)
    if isinstance(value, list | tuple):
        within = {n: _other_entries(each, None, (), kinds) for n, each in enumerate(value)}
        return {n: others for n, others in within.items() if others}
    if not isinstance(value, Mapping):
        return {}
    for option, its_marks in ((of, marks), *options(of)):
        if keys := next((mark for mark in its_marks if isinstance(mark, Keys)), None):
            return {key: True for key in value if keys.kinds.get(key, Kind.DECIDES) not in kinds}
        if get_origin(option) is dict:
            entry = get_args(option)[1]
            within = {key: _other_entries(each, entry, (), kinds) for key, each in value.items()}
            return {key: others for key, others in within.items() if others}
    return {}


def options(of: Any) -> list[tuple[Any, Sequence[Any]]]:
    """What an annotated type or a union stands for, each with its marks."""
    if get_origin(of) is Annotated:
        plain, *marks = get_args(of)
        return [(plain, marks)]
    if get_origin(of) in (Union, UnionType):
        return [found for each in get_args(of) for found in (options(each) or [(each, ())])]
    return []
