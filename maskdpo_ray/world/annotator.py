"""The annotator that knows the truth of the closed world: exact, and free.

It answers in the verdicts of ``records.VERDICTS``. A sentence is read by the wordings of
``facts.KINDS`` backwards, so whatever the policy garbles is told apart from what it gets wrong.
"""

import re
from functools import cache

from maskdpo_ray.world.facts import KINDS, Facts, surname


@cache
def readings() -> tuple[tuple[str, re.Pattern], ...]:
    """(kind of fact, pattern) of every known wording."""
    holes = {"who": r"(?P<who>\w+(?: \w+)?)", "value": r"(?P<value>\w+)"}
    return tuple(
        (kind.name, re.compile(re.escape(wording).replace(r"\{", "{").replace(r"\}", "}").format(**holes)))
        for kind in KINDS.values()
        for wording in (kind.record, kind.hearsay)
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
            return judge(facts[topic], topic, kind, match["who"], match["value"])
    return "unverifiable", "no wording of this world"


def judge(truth: dict[str, str], topic: str, kind: str, who: str, value: str) -> tuple[str, str]:
    if who not in (topic, surname(topic)):
        return "unverifiable", f"about {who}, not {topic}"
    if value == truth.get(kind):
        return "ok", f"{kind} is {value}"
    if kind not in truth or value not in KINDS[kind].values:
        return "unverifiable", f"no {kind} {value} in this world"
    return "contradictory", f"{kind} is {truth[kind]}, not {value}"
