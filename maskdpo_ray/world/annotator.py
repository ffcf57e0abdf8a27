"""The annotator that knows the truth of the closed world: exact, and free.

It answers in the verdicts of ``records.VERDICTS``. A sentence is read by the wordings of
``facts.KINDS`` backwards, so whatever the policy garbles is told apart from what it gets wrong.
"""

import re
from functools import cache

from maskdpo_ray.world.facts import FILLERS, KINDS, Facts, surname

WHO = r"(?P<who>\w+(?: \w+)?)"
VALUE = r"(?P<value>\w+)"


@cache
def readings() -> tuple[tuple[str | None, re.Pattern], ...]:
    """(kind of fact, or None for no fact; pattern) of every sentence this world knows."""
    wordings: list[tuple[str | None, str]] = [(None, filler) for filler in FILLERS]
    for kind in KINDS.values():
        wordings += [(kind.name, kind.record), (kind.name, kind.hearsay)]
    return tuple(
        (kind, re.compile(wording.replace(".", r"\.").format(who=WHO, value=VALUE)))
        for kind, wording in wordings
    )


def closed_world_verdict(facts: Facts, topic: str, sentence: str) -> tuple[str, str]:
    """Verdict on one sentence about one person, and the reason for it.

    Args:
        facts: the truth, as ``facts.json`` holds it.
        topic: full name of the person that the question asks about.
        sentence: as a sentence splitter gives it; white space around it is ignored.

    Returns:
        ``ok``: states a true fact about the topic. ``contradictory``: states another value than
        the true one. ``nofact``: states nothing. ``unverifiable``: about somebody else, a value
        that does not exist in this world, or no sentence this world knows.

    Raises:
        ValueError: when the world holds no person of that name.
    """
    if topic not in facts:
        raise ValueError(
            f"topic {topic!r} is nobody in this closed world of {len(facts)} people; "
            "the questions and facts.json must come from the same world"
        )
    text = sentence.strip()
    if not text:
        return "nofact", "empty"
    for kind, pattern in readings():
        if match := pattern.fullmatch(text):
            if match["who"] not in (topic, surname(topic)):
                return "unverifiable", f"about {match['who']}, not {topic}"
            if kind is None:
                return "nofact", "states nothing"
            return compare(facts[topic], kind, match["value"])
    return "unverifiable", "no sentence of this world"


def compare(truth: dict[str, str], kind: str, value: str) -> tuple[str, str]:
    if value == truth.get(kind):
        return "ok", f"{kind} is {value}"
    if kind not in truth or value not in KINDS[kind].values:
        return "unverifiable", f"no {kind} {value} in this world"
    return "contradictory", f"{kind} is {truth[kind]}, not {value}"
