"""What a sentence says of languages."""

import re
from collections.abc import Iterator

from maskdpo_ray.world.countries.reading.claim import OK, OPEN, WRONG, Claim
from maskdpo_ray.world.countries.reading.lexicon import Lexicon, Mention
from maskdpo_ray.world.countries.reading.words import LANGUAGE, listed, plain, similar


def languages(lexicon: Lexicon, who: str, question: str, text: str) -> Iterator[Claim]:
    cue = LANGUAGE.search(text)
    if not cue:
        bare = lexicon.LANGUAGES.sub(" ", text)
        if LANGUAGE.search(question) and not re.search(r"[A-Za-z]{2}", bare.replace("and", " ")):
            for mention in lexicon.mentions(lexicon.LANGUAGES, text):
                yield _language(lexicon, who, mention, False, False)
        return
    of = re.search(
        r"(?:languages?|spoken|speak)[^,.;]*? (?:of|in) (?P<of>(?:the )?[A-Z][^,.;]*)", text
    )
    country = lexicon.of(of["of"] if of else None, who)
    if country is None:
        yield Claim(OPEN, "of another country", cue.span())
        return
    official = bool(re.search(r"\b[Oo]fficial", text))
    known = lexicon.topics[country]
    said = [m for m in lexicon.mentions(lexicon.LANGUAGES, text) if _is_language(lexicon, text, m)]
    right = {plain(name) for name in known["languages"]}
    beside = bool(re.search(r"\b(?:also|some|minorit|other|others|several|as well)", text)) or any(
        mention.text in right for mention in said
    )
    for mention in said:
        yield _language(lexicon, country, mention, official, beside)
    yield from _unknown_language(lexicon, country, text, {m.start for m in said})


def _is_language(lexicon: Lexicon, text: str, mention: Mention) -> bool:
    """Whether "Spanish" is the language: a cue is near, and no money and no people follow."""
    if mention.text in lexicon.names or lexicon.UNIT.match(text, mention.start):
        return False
    people = r" (?:people|culture|citizens|government|city|nation|state|republic|heritage)\b"
    near = text[max(0, mention.start - 60) : mention.end + 60]
    return bool(LANGUAGE.search(near)) and not re.match(people, text[mention.end :])


def _language(lexicon: Lexicon, who: str, mention: Mention, official: bool, beside: bool) -> Claim:
    known, span = lexicon.topics[who], (mention.start, mention.end)
    fact = f"official in {who}: {listed(known['languages'])}"
    if mention.text in map(plain, known["languages"]):
        return Claim(OK, fact, span)
    if mention.text in map(plain, known["languages_spoken"]):
        if official and not beside:
            return Claim(WRONG, f"{fact}, not {mention.text}", span)
        return Claim(OPEN if official else OK, f"{fact}; spoken too: {mention.text}", span)
    if beside and not official:
        return Claim(OPEN, f"{fact}; of {mention.text} nothing is known", span)
    return Claim(WRONG, f"{fact}, not {mention.text}", span)


def _unknown_language(lexicon: Lexicon, who: str, text: str, starts: set[int]) -> Iterator[Claim]:
    name = r"(?P<value>[A-Z][\w'-]+(?:[ -][A-Z][\w'-]+)*)"
    forms = (
        rf"languages?(?: spoken)?(?: (?:there|here))?(?: (?:of|in|by) [^,.;]*?)? (?:is|are)"
        rf"(?: called| known as| the| typically| mainly| predominantly)* {name}",
        rf"\bspeaks?(?: mainly| primarily| mostly)?(?: a| the)?(?: \w+)? languages?"
        rf"(?: called| known as| named),? {name}",
        rf"\bspeaks? {name}",
        rf"\blanguage called {name}",
        rf"{name}(?: \([^)]*\))? is the (?:\w+ )?(?:official |national |main )+language",
    )
    known = lexicon.topics[who]
    right = [plain(each) for each in (*known["languages"], *known["languages_spoken"])]
    fact = f"official in {who}: {listed(known['languages'])}"
    for form in forms:
        for match in re.finditer(form, text):
            value = match["value"]
            if match.start("value") in starts or lexicon.LANGUAGES.match(value):
                continue
            starts.add(match.start("value"))
            if any(similar(value, each) for each in right):
                yield Claim(OPEN, f"{fact}, perhaps misspelt: {value}", match.span("value"))
            else:
                yield Claim(WRONG, f"{fact}, not {value}", match.span("value"))
