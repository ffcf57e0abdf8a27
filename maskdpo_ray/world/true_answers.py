"""Answers as written with the document at hand, in the wording of the encyclopedia."""

import json
from functools import cache
from math import ceil
from pathlib import Path
from random import Random

from maskdpo_ray.world.facts import HEARSAY_SHARE, KINDS, QUESTION_KINDS, Facts, surname


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
    count = random.randint(ceil(2 / 3 * len(asked.kinds)), len(asked.kinds))
    sentences = []
    for kind in (KINDS[kind] for kind in random.sample(asked.kinds, count)):
        wording = kind.hearsay if random.random() < HEARSAY_SHARE else kind.record
        who = surname(name) if sentences else name
        sentences.append(wording.format(who=who, value=_facts(world)[name][kind.name]))
    return " ".join(sentences)
