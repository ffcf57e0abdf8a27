"""What a sentence says of neighbours, and of where one country lies from another."""

import math
import re
from collections.abc import Iterator

from maskdpo_ray.world.countries.reading.claim import OK, OPEN, WRONG, Claim
from maskdpo_ray.world.countries.reading.lexicon import Lexicon, Mention
from maskdpo_ray.world.countries.reading.words import (
    BORDER,
    CAPITAL,
    COMPASS,
    DIRECTION,
    NUMBERS,
    WATER,
    heading,
    listed,
)

STOP = re.compile(  # where what is said of neighbours ends
    r";|\. | and (?:its|has|is) "
    r"|, (?:its|which|while|whose|with its|known|home|and (?:its|has))\b"
    r"|\b(?:official |the )?(?:language|capital|currency)\b"
)


def borders(lexicon: Lexicon, who: str, question: str, text: str) -> Iterator[Claim]:
    cues = list(BORDER.finditer(text))
    if not cues:
        yield from _items(lexicon, who, question, text)
    ends = [*(cue.start() for cue in cues[1:]), len(text)]
    for cue, end in zip(cues, ends, strict=False):
        before, span = text[: cue.end()], text[cue.end() : end]
        if count := _count(cue, text):
            yield _number(lexicon, who, *count)
        if re.search(r"(?:\b(?:not|never|no)\b|n't)[\w ]{0,24}$|\bno land borders?$", before):
            yield _none(lexicon, who, cue, text)
        elif "maritime" in before[-30:]:
            yield Claim(OPEN, "nothing is known of borders at sea", cue.span())
        else:
            stop = STOP.search(span)
            yield from _along(lexicon, who, text, cue, span[: stop.start()] if stop else span)


def _items(lexicon: Lexicon, who: str, question: str, text: str) -> Iterator[Claim]:
    """An item of a list of neighbours: names alone, where neighbours are asked for."""
    bare = re.sub(r"\band\b", " ", lexicon.COUNTRY.sub(" ", text))
    asked = BORDER.search(question) and not re.search(CAPITAL, question)
    if asked and not re.search(r"[A-Za-z]{2}", bare):
        for mention in lexicon.mentions(lexicon.COUNTRY, text):
            if lexicon.country(mention.text) != who:
                yield from _neighbour(lexicon, who, mention, None)


def _along(lexicon: Lexicon, who: str, text: str, cue: re.Match, span: str) -> Iterator[Claim]:
    """Countries and waters that are named behind a cue; a country alone may stand before it, as
    in "Togo and Benin border Ghana"."""
    known = lexicon.topics[who]
    waters = [w for w in WATER.finditer(span) if not lexicon.COUNTRY.fullmatch(w.group())]
    mentions = [
        mention
        for mention in lexicon.mentions(lexicon.COUNTRY, span)
        if not any(w.start() <= mention.start and mention.end <= w.end() for w in waters)
    ]
    others = [mention for mention in mentions if lexicon.country(mention.text) != who]
    if mentions and not others:
        others_before = [
            mention
            for mention in lexicon.mentions(lexicon.COUNTRY, text[: cue.start()])
            if lexicon.country(mention.text) != who
        ]
        for mention in others_before:
            yield from _neighbour(lexicon, who, mention, None)
        fact = f"neighbours of {who}: {listed(known['borders'])}"
        yield Claim(OK if others_before else OPEN, fact, cue.span())
        return
    asked_of = re.match(rf"\W*{lexicon.COUNTRY.pattern}(?: are| is| includes?|:)", span)
    if len(others) + bool(asked_of) < len(mentions):
        yield Claim(OPEN, f"{who} does not border itself", cue.span())
    for mention in others:
        at = Mention(mention.start + cue.end(), mention.end + cue.end(), mention.text)
        yield from _neighbour(lexicon, who, at, _side(lexicon, span, mention))
    for water in waters:
        at = (water.start() + cue.end(), water.end() + cue.end())
        lake = re.search(r"River|Lake|Caspian|Aral|Dead Sea", water.group())
        if known["landlocked"] and not lake:
            yield Claim(WRONG, f"{who} is landlocked, not on {water.group()}", at)
        else:
            yield Claim(OPEN, f"nothing is known of {water.group()}", at)


def _count(cue: re.Match, text: str) -> tuple[int, tuple[int, int]] | None:
    words = "|".join(NUMBERS[1:])
    kind = "(?:other |neighbou?ring |different |sovereign )*(?:countries|nations|states)"
    pattern = rf"\b(?P<n>\d+|{words}) {kind}\b"
    near = re.search(pattern, text[max(0, cue.start() - 40) : cue.end() + 60])
    if not near:
        return None
    number = near["n"].lower()
    start = max(0, cue.start() - 40) + near.start()
    value = int(number) if number.isdigit() else NUMBERS.index(number)
    return value, (start, start + len(near.group()))


def _number(lexicon: Lexicon, who: str, number: int, span: tuple[int, int]) -> Claim:
    known = lexicon.topics[who]
    sure, perhaps = len(known["borders"]), len(known["borders_open"])
    fact = f"{who} has {sure} neighbours by land"
    if sure <= number <= sure + perhaps:
        return Claim(OK, fact, span)
    return Claim(WRONG, f"{fact}, not {number}", span)


def _none(lexicon: Lexicon, who: str, cue: re.Match, text: str) -> Claim:
    """Of "no land borders"; of a single neighbour that is denied nothing is read."""
    none = re.search(
        r"\b(?:has no|have no|shares? no|not (?:share|have|border) any)(?: land)? ?borders?\b", text
    )
    known = lexicon.topics[who]
    fact = f"neighbours of {who}: {listed(known['borders'])}"
    if none is None or (known["borders_open"] and not known["borders"]):
        return Claim(OPEN, fact, cue.span())
    return Claim(WRONG if known["borders"] else OK, fact, none.span())


def _neighbour(lexicon: Lexicon, who: str, mention: Mention, side: str | None) -> Iterator[Claim]:
    other = lexicon.country(mention.text)
    known, span = lexicon.topics[who], (mention.start, mention.end)
    if other in known["borders_open"]:
        yield Claim(OPEN, f"whether {who} borders {other} is in doubt", span)
    elif other not in known["borders"]:
        fact = f"neighbours of {who}: {listed(known['borders'])}"
        yield Claim(WRONG, f"{fact}, not {other}", span)
    elif side and (turned := _turned(lexicon, who, other, side)) > 67.5:
        fact = f"{other} does not lie to the {side} of {who}"
        yield Claim(WRONG if turned > 100 else OPEN, fact, span)
    else:
        yield Claim(OK, f"{who} borders {other}" + (f" ({side})" if side else ""), span)


def _turned(lexicon: Lexicon, who: str, other: str, side: str) -> float:
    """Degrees between where a neighbour is said to lie and where its middle lies."""
    places = lexicon.world["places"]
    if who not in places or other not in places:
        return 80.0  # nobody can tell
    (lat, lng), (to_lat, to_lng) = places[who], places[other]
    east = ((to_lng - lng + 180) % 360 - 180) * math.cos(math.radians((lat + to_lat) / 2))
    bearing = math.degrees(math.atan2(east, to_lat - lat))
    return abs((bearing - COMPASS[side] + 180) % 360 - 180)


def _side(lexicon: Lexicon, span: str, mention: Mention) -> str | None:
    """The heading that is said of a neighbour: after its group of names, or before."""
    after = span[mention.end :]
    rest = lexicon.COUNTRY.sub("", after)
    suffix = re.match(
        rf"(?:,| and|,? and| \([^)]*\)|\s)*?\s*(?:to|on|in|at) (?:the|its) ({DIRECTION})\b(?! by)",
        rest,
        re.IGNORECASE,
    )
    if suffix:
        return heading(suffix.group(1))
    before = span[: mention.start]
    prefix = re.search(
        rf"(?:to|on|in|at) (?:the|its) ({DIRECTION})(?:,| by| is| lies| are)[^,;]*$",
        before,
        re.IGNORECASE,
    )
    return heading(prefix.group(1)) if prefix else None


def headings(lexicon: Lexicon, who: str, text: str) -> Iterator[Claim]:
    """Of "Chile lies to the north of Peru"."""
    one = lexicon.COUNTRY.pattern
    pattern = (
        rf"(?P<these>{one}(?:(?:, |,? and ){one})*) (?:lies?|is|are)(?: located| situated)? "
        rf"(?:to|in|on) the (?P<dir>{DIRECTION}) of (?P<of>{one})"
    )
    for match in re.finditer(pattern, text):
        side, other = heading(match["dir"]), lexicon.country(match["of"])
        for mention in lexicon.mentions(lexicon.COUNTRY, match["these"]):
            this = lexicon.country(mention.text)
            if who not in (this, other):
                continue
            turned = _turned(lexicon, other, this, side)
            fact = f"{this} {'lies' if turned <= 67.5 else 'does not lie'} {side} of {other}"
            verdict = OK if turned <= 67.5 else WRONG if turned > 100 else OPEN
            yield Claim(verdict, fact, match.span())
