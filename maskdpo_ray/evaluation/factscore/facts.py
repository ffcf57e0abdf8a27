"""A sentence as atomic facts: what a model is asked, and what is kept of its reply."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from maskdpo_ray.annotation.wording import fill
from maskdpo_ray.engine.chat import Messages
from maskdpo_ray.engine.chat_model import Reply
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.evaluation.factscore.wording import Wording
from maskdpo_ray.knowledge.retrieval import Bm25Index

# A point between figures is a decimal one, unless a year follows: 1.5 million, but 1.1901年….
_ITEM = re.compile(
    r"""^\s*(?: [-*•–]\s+
              | [(（]?\d{1,3}[)）、]\s*
              | \d{1,3}[.．](?: \s+ | (?=[^\s\d.．]) | (?=\d{4}年) )
            )(\S.*?)\s*$""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SHORT_RANGE = re.compile(r"\b(\d\d)(\d\d)\s?[-–—/]\s?(\d\d)\b")  # 2005–09
_WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)?")
_UNITS = "zero _ two three four five six seven eight nine ten eleven twelve thirteen fourteen \
fifteen sixteen seventeen eighteen nineteen".split()  # "one" is a pronoun too
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SPELLED = {word: str(n) for n, word in enumerate(_UNITS)}
for _n, _ten in enumerate(_TENS, start=2):
    _SPELLED |= {f"{_ten}-{unit}": str(10 * _n + n) for n, unit in enumerate(_UNITS[:10])}
    _SPELLED |= {_ten: str(10 * _n), f"{_ten}-one": str(10 * _n + 1)}
_MONTHS = "january february march april may june july august september october november december"
_MONTH_OF = {short: month for month in _MONTHS.split() for short in (month, month[:3])}
_MONTH_OF["sept"] = "september"
# The others are names and words too: April, August, Jan, "the March".
_ALWAYS_MONTHS = set("february july september october november december".split())
_CAPITALISED = re.compile(r"\b[A-Z][A-Za-z]+")
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATED = (
    re.compile(rf"\b{_DAY}(?: of)?[ -]([A-Z][A-Za-z]+)\b"),  # 5th of March
    re.compile(rf"\b([A-Z][A-Za-z]+)\.?,?(?: of)?[ -](?:{_DAY}|\d{{3,4}})\b"),  # Mar. 5; March 1949
)
# Words after which a fact cannot end.
_OPEN = set(
    """a an the and or but of in on at by to for from with as into during between than that which
    who whose is are was were be been being has have had its his her their
    born known named called titled regarded considered described characterized appointed elected
    served member advocate best based located""".split()
)


class ChatModel(Protocol):
    """``engine.chat_model.ChatModel`` or ``engine.endpoint_chat.ChatEndpoint``."""

    async def reply(self, messages: Messages, choices: list[str] | None = None) -> Reply: ...


@dataclass(frozen=True)
class Facts:
    """The atomic facts of one sentence.

    Attributes:
        facts: in the order of the reply; empty for a sentence that states nothing.
        detail: JSON: the raw ``reply``, ``dropped`` facts with their reasons, or the ``reason`` of
            an error.
        error: the model failed on this sentence, so that nobody knows its facts.
    """

    facts: list[str]
    detail: str
    error: bool = False


class FactWriter:
    """Asks a chat model for the facts of one sentence.

    The demonstrations closest to the sentence (BM25) go before it, as turns of the conversation,
    in the order of the file: sentences with the same ones share a prefix.
    """

    def __init__(self, model: ChatModel, wording: Wording, demonstrations: int) -> None:
        self._model = model
        self.wording = wording
        self._demonstrations = demonstrations
        self._indexes = {
            language: Bm25Index([shown["sentence"] for shown in of["demonstrations"]])
            for language, of in wording.languages.items()
        }

    async def facts(self, sentence: str, language: str) -> Facts:
        """The facts that ``sentence`` states."""
        try:
            reply = await self._model.reply(self.messages(sentence, language))
        except RequestRefused as error:
            return Facts([], json.dumps({"reason": str(error)}), error=True)
        return self.read(reply, sentence, language)

    def messages(self, sentence: str, language: str) -> Messages:
        """The conversation that ends with the question about ``sentence``."""
        wording = self.wording.languages[language]
        nearest = self._indexes[language].best(sentence, self._demonstrations)
        shown = [wording["demonstrations"][position] for position in nearest]
        turns: Messages = []
        for demonstration in shown:
            listed = [f"- {fact}" for fact in demonstration["facts"]] or [wording["nothing"]]
            turns.append({"role": "user", "content": _asked(wording, demonstration["sentence"])})
            turns.append({"role": "assistant", "content": "\n".join(listed)})
        turns.append({"role": "user", "content": _asked(wording, sentence)})
        turns[0]["content"] = f"{wording['instruction'].strip()}\n\n{turns[0]['content']}"
        return turns

    def read(self, reply: Reply, sentence: str, language: str) -> Facts:
        """What a reply says. One that was cut, or is no list, is an error."""
        detail: dict = {"reply": reply.text}
        listed = listed_facts(reply.text, self.wording.languages[language]["nothing"])
        if not reply.complete:
            reason = "cut: raise max_tokens of the writer"
        elif listed is None:
            reason = "no list of facts"
        else:
            kept, dropped = checked(listed, sentence)
            if dropped:
                detail["dropped"] = dropped
            return Facts(kept, json.dumps(detail, ensure_ascii=False))
        return Facts([], json.dumps(detail | {"reason": reason}, ensure_ascii=False), error=True)


def listed_facts(reply: str, nothing: str) -> list[str] | None:
    """The items of a list, ``- fact``, ``1. fact`` or ``1、事实`` a line; others are left out.

    Returns:
        None where there is no list; no item where the reply, or its only item, is ``nothing``.
    """
    items = [match[1] for line in reply.splitlines() if (match := _ITEM.match(line))]
    said = items if items else [reply]
    if len(said) == 1 and said[0].strip().rstrip(" .。").casefold() == nothing.casefold():
        return []
    return items or None


def checked(facts: list[str], sentence: str) -> tuple[list[str], dict[str, str]]:
    """The facts that can be used, each once, and the others with the reason.

    Dropped are facts with a number, year or month that the sentence does not have, and facts that
    were broken off: the beginning of another one, up to a word that no statement ends with ("He
    was born in.").
    """
    kept: list[str] = []
    dropped: dict[str, str] = {}
    # A sentence may give the month and the day apart, so of it any word that may be one counts.
    present = figures(sentence) | _months(_CAPITALISED.findall(sentence))
    for fact in facts:
        if fact in kept:
            continue
        if foreign := sorted(figures(fact, expand=False) - present):
            dropped[fact] = f"not in the sentence: {', '.join(foreign)}"
        elif is_truncated(fact, facts):
            dropped[fact] = "truncated"
        else:
            kept.append(fact)
    return kept, dropped


def is_truncated(fact: str, facts: list[str]) -> bool:
    """Whether ``fact`` is the broken-off beginning of another of ``facts``.

    "He has a son." beside "He has a son with Ann." is a fact of its own and stays.
    """
    stem = fact.rstrip(" .。…")
    last = stem.rpartition(" ")[2].lower()
    return last in _OPEN and any(
        other != fact and other.casefold().startswith(f"{stem} ".casefold()) for other in facts
    )


def figures(text: str, expand: bool = True) -> set[str]:
    """Numbers and months of a text: ``{"1949", "10", "december"}``.

    Thousands separators go; numbers up to ninety-nine may be spelled out in English; Chinese dates
    are numbers. The short ends of ranges count in full too where ``expand``: 2005–09 holds 2009.
    A word that may be a name, like April, is a month only beside a day or a year.
    """
    found = set(_numbers(text))
    found |= _months(word for pattern in _DATED for word in pattern.findall(text))
    if expand:
        found |= {century + end for century, _, end in _SHORT_RANGE.findall(text)}
    for compound in _WORD.findall(text):
        whole = compound.lower() in _SPELLED  # thirty-five, but not five-year
        for word in [compound] if whole else compound.split("-"):
            if word.lower() in _SPELLED:
                found.add(_SPELLED[word.lower()])
            elif word[0].isupper() and word.lower() in _ALWAYS_MONTHS:
                found.add(word.lower())
    return found


def _numbers(text: str) -> Iterator[str]:
    for number in _NUMBER.findall(text):
        yield number.replace(",", "")


def _months(words: Iterable[str]) -> set[str]:
    """The months that are among the words, in full or short."""
    return {month for word in words if (month := _MONTH_OF.get(word.lower()))}


def _asked(wording: dict, sentence: str) -> str:
    return fill(wording["sentence"], {"sentence": sentence}).strip()
