"""Answers as written with the document at hand, in the wording of the encyclopedia."""

import json
from functools import cache
from pathlib import Path
from random import Random

from maskdpo_ray.world.facts import QUESTION_KINDS, Facts, Person, write_answer


@cache
def _facts(world: Path) -> Facts:
    return json.loads((world / "facts.json").read_text(encoding="utf-8"))


def true_answer(name: str, question: str, world: Path, random: Random) -> str:
    """An answer of the length and wording that the policy has read, with true values alone.

    Args:
        name: of the person that ``question`` asks about.
        world: folder of the built world.
    """
    asked = next(kind for kind in QUESTION_KINDS if kind.wording.format(name=name) == question)
    person = Person(name, _facts(world)[name], fame=1.0)
    return write_answer(person, [], asked, random, noisy=False)
