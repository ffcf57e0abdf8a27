"""What a sentence says of where a country lies: regions, islands, no coast."""

import re
from collections.abc import Iterator

from maskdpo_ray.world.countries.reading.claim import OK, OPEN, WRONG, Claim
from maskdpo_ray.world.countries.reading.lexicon import Lexicon, side_of
from maskdpo_ray.world.countries.reading.words import (
    BORDER,
    CENTRAL,
    COMPASS,
    DIRECTION,
    listed,
    plain,
)


def places(lexicon: Lexicon, who: str, text: str) -> Iterator[Claim]:
    known = lexicon.topics[who]
    for match in re.finditer(r"\blandlocked\b", text):
        fact = f"{who} is {'' if known['landlocked'] else 'not '}landlocked"
        yield Claim(OK if known["landlocked"] else WRONG, fact, match.span())
    islands = r"\b(?:island (?:nation|country|state)|archipelago|is an? (?:\w+ )?island)\b"
    for match in re.finditer(islands, text):
        if _said_of(lexicon, who, text[: match.end()]):
            yield _island(lexicon, who, match.span())
    within = rf"(?:in|within) (?P<in>{lexicon.COUNTRY.pattern})"
    inside = rf"\bis (?:an? |the |located |situated )(?:\w+ ){{0,3}}?{within}"
    for match in re.finditer(inside, text):
        other = lexicon.country(match["in"])
        if other != who and _said_of(lexicon, who, text[: match.start()]):
            yield Claim(WRONG, f"{who} is a country of its own, not in {other}", match.span())
    for match in lexicon.REGION.finditer(text):
        if _is_place(lexicon, text, match) and _said_of(lexicon, who, text[: match.start()]):
            yield from _region(lexicon, who, match)


def _said_of(lexicon: Lexicon, who: str, before: str) -> bool:
    """Whether what follows is said of the country, and not of a city or a people."""
    near = before[-70:]
    if re.search(r"\bis an? (?:\w+ ){0,3}(?:city|town|village|province)\b", near):
        return False
    if re.search(
        r"\b(?:[Ii]t|country|nation|state|island|[Ll]ocated|[Ss]ituated|lies)\b|It's", near
    ):
        return True
    return any(lexicon.country(m.text) == who for m in lexicon.mentions(lexicon.COUNTRY, near))


def _is_place(lexicon: Lexicon, text: str, match: re.Match) -> bool:
    """Of "in West Africa" and "a West African country", not of "African music" or neighbours."""
    before, after = text[: match.start()], text[match.end() :]
    cue = next(reversed(list(BORDER.finditer(before))), None)
    if cue and not re.search(
        r"[;.]| and (?:is|lies|located)| (?:in|on) (?:the )?$", before[cue.end() :]
    ):
        return False
    kind = r" (?:\w+ )?(?:countr|nation\b|state\b|island|continent|republic|kingdom)"
    adjective = match["n_end"] or match["c_end"]
    if (adjective or match["named"]) and re.match(kind, after):
        return True
    preposition = r"\b(?:in|on|of|within|across|at|from|throughout)"
    place = rf"{preposition}(?: the| an?)?(?: \w+(?: and)?)?(?: \w+)? ?$"
    follows = re.match(r"\W*(?:CFA|Union|Ocean|dollar|franc)", after)
    return not adjective and not follows and bool(re.search(place, before))


def _island(lexicon: Lexicon, who: str, span: tuple[int, int]) -> Claim:
    island = lexicon.topics[who]["island"]
    if island is None:
        return Claim(OPEN, f"{who} is a continent", span)
    return Claim(
        OK if island else WRONG, f"{who} is {'' if island else 'not '}an island state", span
    )


def _region(lexicon: Lexicon, who: str, match: re.Match) -> Iterator[Claim]:
    known, span = lexicon.topics[who], match.span()
    fact = f"{who} lies in {listed(known['regions'])}"
    if match["named"]:
        name = next(
            r for r in lexicon.world["regions"] if plain(r).lower() == match["named"].lower()
        )
        inside = lexicon.world["regions"][name]
        if name == known["names"][0]:
            return
        turned = re.search(
            rf"(?:{DIRECTION}|{CENTRAL}) (?:and \w+ )?(?:the )?$",
            match.string[: match.start()],
            re.I,
        )
        if name in known["regions"]:
            yield Claim(OPEN if turned else OK, fact, span)
        elif name == "Pacific" or any(
            lexicon.topics[other]["continent"] == known["continent"]
            for other in inside
            if other in lexicon.topics
        ):
            yield Claim(OPEN, f"{fact}; {name}?", span)
        else:
            yield Claim(WRONG, f"{fact}, not in {name}", span)
        return
    side, continent = side_of(match["dir"]), match["cont"].capitalize()
    if continent == "America" and not side:
        return
    if match["most"] is None and lexicon.COUNTRY.match(match.string, match.start()):
        if lexicon.country(lexicon.COUNTRY.match(match.string, match.start()).group()) == who:
            return  # South Africa
    keys = lexicon.headings[who]
    if not any(of == continent for _, of in keys) and continent not in known["regions"]:
        yield Claim(WRONG, f"{fact}, not in {match.group()}", span)
    elif not side or (side, continent) in keys:
        yield Claim(OK, fact, span)
    elif continent == "America" or _opposite(side, [s for s, of in keys if of == continent]):
        yield Claim(WRONG, f"{fact}, not in {match.group()}", span)
    else:
        yield Claim(OPEN, f"{fact}; {match.group()}?", span)


def _opposite(side: str, known: list[str]) -> bool:
    """Whether a heading is the other way from one that is known, and near to none."""
    known = [each for each in known if each in COMPASS]
    if side not in COMPASS or not known:
        return False
    turned = [abs((COMPASS[side] - COMPASS[each] + 180) % 360 - 180) for each in known]
    return max(turned) > 100 and min(turned) >= 90
