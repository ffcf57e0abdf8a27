"""Who can annotate: the files of ``annotators/``, what other packages announce, and any class or
function by its place."""

import difflib
import pkgutil
import sys
from collections.abc import Collection
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from inspect import getfile, isclass, isfunction, signature
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation import annotators
from maskdpo_ray.annotation.annotator import Annotator

GROUP = "maskdpo_ray.annotators"  # of entry points


def annotator_named(name: Any) -> type[Annotator]:
    """The annotator of a setting ``annotator``.

    Raises:
        ValueError: there is none of this name; names the nearest.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"annotator must be a name, not {name!r}: {', '.join(known())}")
    return _found(name)


def known() -> list[str]:
    """Names of the annotators that are installed."""
    return sorted({*_ours(), *entry_points(group=GROUP).names})


def default() -> str:
    """The one that is taken where none is named."""
    return next(name for name in _ours() if annotator_named(name).default)


def of_settings(given: Collection[str]) -> str:
    """The one whose settings these are where they name none: it has a setting of its own name
    (``cascade: [...]``); else the default."""
    named = (name for name in _ours() if name in given)
    own = (name for name in named if name in annotator_named(name).Settings.model_fields)
    return next(own, None) or default()


def with_need(need: str) -> list[str]:
    """Of ours, those that need something."""
    return [name for name in _ours() if need in annotator_named(name).needs]


def with_setting(key: str) -> list[str]:
    """Of ours, those that have a setting."""
    return [name for name in _ours() if key in annotator_named(name).Settings.model_fields]


def _ours() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(annotators.__path__))


@cache
def _found(name: str) -> type[Annotator]:
    if ":" in name:
        return _annotator(_imported(name), name)
    if name in _ours():
        return _of_module(import_module(f"{annotators.__name__}.{name}"))
    if name in entry_points(group=GROUP).names:
        announced = entry_points(group=GROUP)[name]
        return _annotator(_imported(f"{announced.module}:{announced.attr}"), name)
    near = difflib.get_close_matches(name, known(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known())}"
    raise ValueError(
        f"annotator {name!r} is not known: {hint} One of your own is package.module:Class"
    )


def _check_takes(call: Any, arguments: tuple[str, ...], name: str) -> None:
    """Raise ``ValueError`` where a function cannot be called so."""
    if not isfunction(call):
        return
    try:
        signature(call).bind(*arguments)
    except TypeError as error:
        raise ValueError(f"annotator {name!r} must take {', '.join(arguments)}: {error}") from None


def _of_module(module: Any) -> type[Annotator]:
    """The annotator that a module defines, the first of several; a class without a call is none."""
    classes = [each for each in vars(module).values() if isclass(each)]
    here = [each for each in classes if each.__module__ == module.__name__]
    of_ours = (each for each in here if issubclass(each, Annotator))
    return next(each for each in of_ours if _judges(each) or "processor" in vars(each))


def _judges(annotator: type[Annotator]) -> bool:
    return hasattr(annotator, "verdict") or hasattr(annotator, "verdicts")


def _imported(place: str) -> Any:
    """The object at ``package.module:name``; modules of the working directory are found too."""
    name, _, attribute = place.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # as it is in Ray's actors on this machine
    try:
        found = import_module(name)
    except Exception as error:  # whatever somebody else's module raises
        words = f"{type(error).__name__}: {error}"
        raise ValueError(f"annotator {place!r} cannot be imported: {words}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"annotator {place!r}: {name} has no {attribute!r}")
        found = getattr(found, part)
    return found


def _annotator(found: Any, name: str) -> type[Annotator]:
    if isclass(found) and issubclass(found, Annotator):
        if hasattr(found, "verdict") == hasattr(found, "verdicts"):
            raise ValueError(f"annotator {name!r} must define one of verdict and verdicts")
        if hasattr(found, "verdict"):
            _check_takes(found.verdict, ("self", "question", "sentence"), f"{name}.verdict")
        else:
            of = ("self", "question", "response", "sentences")
            _check_takes(found.verdicts, of, f"{name}.verdicts")
        return found
    if isfunction(found):
        _check_takes(found, ("question", "sentence"), name)
        of = {"verdict": staticmethod(found), "source": staticmethod(lambda: getfile(found))}
        return type(found.__name__, (Annotator,), {**of, "__module__": found.__module__})
    raise ValueError(
        f"annotator {name!r} is neither a function of (question, sentence) nor a class of "
        "maskdpo_ray.annotation.Annotator"
    )
