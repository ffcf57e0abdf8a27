"""What a sentence says of capitals."""

import re
from collections.abc import Iterator

from maskdpo_ray.world.countries.reading.claim import OK, OPEN, WRONG, Claim
from maskdpo_ray.world.countries.reading.lexicon import Lexicon
from maskdpo_ray.world.countries.reading.words import CAPITAL, letters, plain, similar

NAME = r"(?P<value>\"?[A-Z][\w'.-]*(?:,? (?:of |de |la |el |al-|the |D\.C)?[A-Z][\w'.-]*){0,3})"


def capitals(lexicon: Lexicon, who: str, question: str, text: str) -> Iterator[Claim]:
    of = (
        rf"(?P<of> (?:of|in) (?:the )?(?:\w+ of )?(?:the )?(?:{lexicon.COUNTRY.pattern}"
        r"|[A-Z][\w'-]*(?: (?:and |of |the )*[A-Z][\w'-]*)*)| of the country)?"
    )
    forms = (
        rf"\b{CAPITAL}{of}(?:,[^,]{{0,40}},)?(?: is| was|,| city is)(?: currently| now| also)*"
        rf"(?: called| known as| named| the city of| the town of|:)* {NAME}",
        rf"\b{CAPITAL}{of}(?:,)?(?: named| called|:) {NAME}",
        rf"{NAME}(?: \([^)]*\))?,?(?: which| that)? (?:is|was|serves as|became)(?: also)? "
        rf"(?:the|its|their) (?:\w+ )?{CAPITAL}{of}",
        rf"{NAME}, (?:the|its) {CAPITAL}{of}",
    )
    if bare := re.fullmatch(rf"\W*(?P<city>{NAME})\W*", text):
        # An answer of one name.
        if re.search(CAPITAL, question) and bare["value"].rstrip(".") in lexicon.cities:
            yield from _capital(lexicon, who, bare["value"], bare.span())
    taken: list[tuple[int, int]] = []
    for form in forms:
        for match in re.finditer(form, text):
            span = match.span()
            if any(match.start("value") == start for start, _ in taken):
                continue
            taken.append(match.span("value"))
            country = lexicon.of(match["of"], _whose(lexicon, text, match.start(), who))
            if country is None:
                yield Claim(OPEN, "of another country", span)
                continue
            yield from _capital(lexicon, country, match["value"], span)


def _whose(lexicon: Lexicon, text: str, start: int, who: str) -> str:
    """In "Kenya's capital" and "the Kenyan capital", Kenya."""
    before = text[:start].rstrip()
    for name in re.findall(r"([A-Z][\w' -]*?)(?:'s)?$", before)[-1:]:
        bare = name.removesuffix("'s")
        if bare in lexicon.names and lexicon.names[bare] in lexicon.topics:
            return lexicon.names[bare]
    return who


def _capital(lexicon: Lexicon, country: str, value: str, span: tuple[int, int]) -> Iterator[Claim]:
    known = lexicon.topics[country]
    right = [plain(city) for city in known["capitals"]]
    fact = f"capital of {country}: {' or '.join(known['capitals'])}"
    value = value.strip(' "').removesuffix("'s").rstrip(".,")
    longest = sorted(lexicon.cities, key=len, reverse=True)
    city = next((each for each in longest if re.match(rf"{re.escape(each)}\b", value)), value)
    whole = letters(value) in map(letters, right)
    if city in right or whole:
        rest = value.removeprefix(city).strip(" ,")
        if rest and not whole and rest not in ("City", *lexicon.names):
            yield Claim(OPEN, f"{fact}; {value}?", span)
        else:
            yield Claim(OK, fact, span)
    elif city in map(plain, known["capitals_open"]):
        yield Claim(OPEN, f"{fact}; {city} is in doubt", span)
    elif any(similar(value, each) for each in right):
        yield Claim(OPEN, f"{fact}, perhaps misspelt: {value}", span)
    else:
        yield Claim(WRONG, f"{fact}, not {value}", span)
