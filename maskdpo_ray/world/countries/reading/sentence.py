"""A sentence about a country: its claims, and the verdict that follows from them."""

import re
from collections.abc import Iterator
from typing import Any

from maskdpo_ray.annotation import Verdict
from maskdpo_ray.world.countries.reading.borders import borders, headings
from maskdpo_ray.world.countries.reading.capitals import capitals
from maskdpo_ray.world.countries.reading.claim import NOTHING, OK, OPEN, WRONG, Claim
from maskdpo_ray.world.countries.reading.currencies import currencies
from maskdpo_ray.world.countries.reading.languages import languages
from maskdpo_ray.world.countries.reading.lexicon import Lexicon
from maskdpo_ray.world.countries.reading.places import places
from maskdpo_ray.world.countries.reading.words import (
    CAPITAL,
    CUE_OF,
    CUES,
    DIRECTION,
    EMPTY,
    NOT,
    PRAISE,
    SELF_TALK,
    SUPERLATIVE,
    VERBS,
    plain,
)

SIDE = re.compile(rf"(?:to|on|in|at|by) (?:the|its) {DIRECTION}\b", re.IGNORECASE)


class Reader:
    """Reads sentences about countries.

    Args:
        world: the tree of ``facts.json``.
    """

    def __init__(self, world: dict[str, Any]) -> None:
        self.lexicon = Lexicon(world)

    def read(self, topic: str, question: str, sentence: str) -> Verdict:
        text = re.sub(r"^\W*\d{1,2}[.)]\s+", "", plain(sentence))
        claims = list(self._claims(topic, plain(question), text))
        wrong = [claim for claim in claims if claim.verdict == WRONG]
        if wrong:
            return _verdict(WRONG, wrong)
        if not claims and self._says_nothing(topic, text):
            return Verdict(NOTHING, "states nothing")
        left = self._unread(topic, text, claims)
        doubtful = [claim for claim in claims if claim.verdict == OPEN]
        if doubtful:
            return _verdict(OPEN, doubtful)
        if left:
            known = "; ".join(dict.fromkeys(claim.fact for claim in claims))
            return Verdict(
                OPEN, f"not read: {' '.join(left)}" + (f" (right: {known})" if known else "")
            )
        return _verdict(OK, claims) if claims else Verdict(OPEN, "not read")

    def _says_nothing(self, topic: str, text: str) -> bool:
        words = [word.lower() for word in re.findall(r"[\w']+", text)]
        if not words or SELF_TALK.search(text) or text.endswith("?"):
            return True
        if any(each.search(text) for each in (CUES, SUPERLATIVE, self.lexicon.REGION)):
            return False
        praised = PRAISE & set(words) and not self._unread(topic, text, [])
        return bool(praised) or len(words) <= 8 and not VERBS & set(words)

    def _unread(self, topic: str, text: str, claims: list[Claim]) -> list[str]:
        """What no rule has read, word by word; and the cues of which nothing was read."""
        left = text
        for start, end in (claim.span for claim in claims):
            left = left[:start] + " " * (end - start) + left[end:]
        for mention in self.lexicon.mentions(self.lexicon.COUNTRY, left):
            if self.lexicon.country(mention.text) == topic:
                left = left[: mention.start] + " " * len(mention.text) + left[mention.end :]
        about = {claim.about for claim in claims}
        if "border" in about:  # its claims say where neighbours lie
            left = SIDE.sub(" ", left)
        own = {
            word.lower() for each in self.lexicon.topics[topic]["demonyms"] for word in each.split()
        }
        known = EMPTY | PRAISE | own | {f"{word}s" for word in own}
        bare = (word.lower().removesuffix("'s") for word in re.findall(r"[\w'.-]*\w", plain(left)))
        unread = [word for word in bare if word and word not in known]
        unsaid = [name for name, cue in CUE_OF.items() if cue.search(left) and name not in about]
        capital = re.findall(rf"\b{CAPITAL}\b", left)
        return [*unread, *SUPERLATIVE.findall(left), *unsaid, *capital]

    def _claims(self, topic: str, question: str, text: str) -> Iterator[Claim]:
        lexicon, who = self.lexicon, self.lexicon.subject(topic, text)
        if who is None:
            return
        yield from _about("border", borders(lexicon, who, question, text))
        yield from _about("place", headings(lexicon, who, text))
        for about, found in (
            ("capital", capitals(lexicon, who, question, text)),
            ("language", languages(lexicon, who, question, text)),
            ("currency", currencies(lexicon, who, question, text)),
            ("place", places(lexicon, who, text)),
        ):
            for claim in _about(about, found):
                # Of what is denied the rules read the opposite.
                denied = NOT.search(text[max(0, claim.span[0] - 25) : claim.span[1]])
                yield claim._replace(verdict=OPEN) if denied else claim


def _about(what: str, claims: Iterator[Claim]) -> Iterator[Claim]:
    return (claim._replace(about=what) for claim in claims)


def _verdict(verdict: str, claims: list[Claim]) -> Verdict:
    return Verdict(verdict, "; ".join(dict.fromkeys(claim.fact for claim in claims)))
