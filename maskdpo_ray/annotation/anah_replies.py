"""What the replies of the three-turn protocol mean (docs/method.md, section 4).

Tolerant of form: white space, case, missing brackets, a final full stop. Strict about meaning:
a reply that says anything besides one marker is no verdict, and the caller makes it an ``error``.
Markers of either language are understood whatever the language of the question.
"""

import re

NO_FACTS, FACTS_PRESENT = "no facts", "facts present"
FACT_MARKERS = {
    "no facts": NO_FACTS,
    "facts present": FACTS_PRESENT,
    "无事实": NO_FACTS,
    "有事实": FACTS_PRESENT,
}
NO_REFERENCE_MARKERS = ("no reference information", "无参考信息")
TYPE_MARKERS = {
    "no hallucination": "ok",
    "contradictory": "contradictory",
    "contradiction": "contradictory",
    "unverifiable": "unverifiable",
    "无幻觉": "ok",
    "矛盾": "contradictory",
    "无法验证": "unverifiable",
}
SEPARATOR = re.compile(r"[<＜]\s*sep\s*[>＞]", re.IGNORECASE)
BRACKETED = re.compile(r"[<＜]([^<>＜＞]*)[>＞]")
ENCLOSED = re.compile(r"[<＜‹\[][^<>＜＞‹›\[\]]*[>＞›\]]\s*[.。．]?")


class UnreadableReply(ValueError):
    """A reply that is none of the answers of its turn."""


def read_fact_existence(reply: str) -> str:
    """Turn 1: ``NO_FACTS`` or ``FACTS_PRESENT``.

    Raises:
        UnreadableReply: anything else, two markers included.
    """
    return _lookup(reply, FACT_MARKERS)


def read_references(reply: str) -> list[str]:
    """Turn 2: the fragments of the document, or none where it says nothing about the sentence.

    Raises:
        UnreadableReply: empty, a marker of any turn stands beside other text, or a fragment is
            no text: without a letter or digit, or enclosed in brackets as only markers are.
    """
    if _core(reply) in NO_REFERENCE_MARKERS:
        return []
    named = {_core(reply), *map(_core, BRACKETED.findall(reply))}
    foreign = named & {*FACT_MARKERS, *TYPE_MARKERS}
    if foreign or any(marker in _flat(reply) for marker in NO_REFERENCE_MARKERS):
        raise UnreadableReply(f"a marker beside other text: {reply!r}")
    fragments = [fragment.strip() for fragment in SEPARATOR.split(reply)]
    fragments = [fragment for fragment in fragments if fragment]
    if not fragments or not all(map(_is_text, fragments)):
        raise UnreadableReply(f"no fragment in {reply!r}")
    return fragments


def _is_text(fragment: str) -> bool:
    """Whether it can be a passage: not a marker of the model's own making, in brackets whole."""
    return not ENCLOSED.fullmatch(fragment) and any(map(str.isalnum, fragment))


def read_hallucination_type(reply: str) -> str:
    """Turn 3: the verdict ``ok``, ``contradictory`` or ``unverifiable``.

    Raises:
        UnreadableReply: anything else, such as ``不矛盾`` ("does not contradict") or two markers.
    """
    return _lookup(reply, TYPE_MARKERS)


def _lookup(reply: str, markers: dict[str, str]) -> str:
    try:
        return markers[_core(reply)]
    except KeyError:
        raise UnreadableReply(f"expected one of {', '.join(markers)}; got {reply!r}") from None


def _flat(text: str) -> str:
    return " ".join(text.casefold().split())


def _core(reply: str) -> str:
    """The reply without white space around it, one full stop, one pair of brackets, and case."""
    text = _flat(reply)
    text = re.sub(r"\s*[.。．]$", "", text)
    text = re.sub(r"^[<＜]\s*|\s*[>＞]$", "", text)
    return re.sub(r"\s*[.。．]$", "", text)
