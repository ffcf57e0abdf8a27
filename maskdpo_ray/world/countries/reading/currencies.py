"""What a sentence says of currencies."""

import re
from collections.abc import Iterator

from maskdpo_ray.world.countries.reading.claim import OK, OPEN, WRONG, Claim
from maskdpo_ray.world.countries.reading.lexicon import Lexicon
from maskdpo_ray.world.countries.reading.words import LANGUAGE, MONEY, listed, plain, similar


def currencies(lexicon: Lexicon, who: str, question: str, text: str) -> Iterator[Claim]:
    cue = MONEY.search(text) or (MONEY.search(question) and not LANGUAGE.search(text))
    if not cue:
        return
    of = re.search(r"currenc(?:y|ies)[^,.;]*? (?:of|in) (?P<of>(?:the )?[A-Z][^,.;]*)", text)
    country = lexicon.of(of["of"] if of else None, who)
    if country is None:
        yield Claim(OPEN, "of another country", (of or cue).span())
        return
    taken: set[int] = set()
    for match in lexicon.UNIT.finditer(text):
        taken |= set(range(*match.span()))
        yield _unit(lexicon, country, match)
    if MONEY.search(text):
        yield from _unknown_currency(lexicon, country, text, taken)


def _unit(lexicon: Lexicon, who: str, match: re.Match) -> Claim:
    known, span = lexicon.topics[who], match.span()
    names = [each["name"] for each in lexicon.world["currencies"][who]]
    fact = f"currency of {who}: {listed(names)}"
    unit, code = match["unit"].lower(), match["code"]
    if unit in (plain(each) for each in known["currencies_open"]):
        return Claim(OPEN, f"{fact}; {unit} is in doubt", span)
    if unit not in {each.lower() for each in lexicon.units[who]}:
        return Claim(WRONG, f"{fact}, not {match.group().strip()}", span)
    if code and code not in known["currencies"]:
        return Claim(WRONG, f"{fact} ({listed(known['currencies'])}), not {code}", span)
    whose = re.sub(r"\b(?:The|Its|Their|Official|New)\b", "", match["whose"]).strip(" -")
    fits = {plain(word).lower() for name in names for word in name.split()}
    fits |= {plain(word).lower() for word in (*known["names"], *known["demonyms"])}
    if "XOF" in known["currencies"]:
        fits |= {"west", "african"}
    if "XAF" in known["currencies"]:
        fits |= {"central", "african"}
    own = {plain(word).lower() for word in (*known["names"], *known["demonyms"])}
    of_others = any(unit in plain(name).lower().split()[1:] for name in names)
    if whose.lower() in own and of_others and not own & {_whose_money(n) for n in names}:
        # A "Panamanian dollar" where the US dollar is the currency.
        return Claim(WRONG if unit == "dollar" else OPEN, f"{fact}, not one of its own", span)
    if not whose or whose.lower() in fits or set(whose.lower().split()) <= fits:
        return Claim(OK, fact, span)
    others = {*lexicon.demonyms, *lexicon.names}
    if whose in others or any(whose.endswith(f" {each}") for each in others):
        return Claim(WRONG, f"{fact}, not {match.group().strip()}", span)
    return Claim(OPEN, f"{fact}; {match.group().strip()}?", span)


def _whose_money(name: str) -> str:
    return plain(name).lower().rpartition(" ")[0]


def _unknown_currency(lexicon: Lexicon, who: str, text: str, taken: set[int]) -> Iterator[Claim]:
    name = r"(?P<value>[\"']?[A-Z][\w'-]+(?: [A-Z][\w'-]+)*)"
    plain_name = r"(?P<value>[a-z]{3,})"
    after = r"(?: called| known as| named)*(?: the| a| an)?"
    forms = (
        rf"currenc(?:y|ies)(?: unit)?(?: used)?(?: there| here)?(?: (?:of|in) [^,.;]*?)?"
        rf" (?:is|are)(?: often)?{after} {name}",
        rf"currency(?:,)?(?: called| known as| named)(?: the)? {name}",
        rf"currency(?:,)? the {plain_name},",
        rf"most (?:\w+ )*used (?:\w+ )?is{after} {name}",
        rf"money is (?:called|known as)(?: the)? {name}",
        rf"{name}(?: \([^)]*\))? is (?:a|the) (?:\w+ )?currency",
    )
    names = [each["name"] for each in lexicon.world["currencies"][who]]
    fact = f"currency of {who}: {listed(names)}"
    also = re.search(r"\balso\b.*\ba currency\b", text)
    for form in forms:
        for match in re.finditer(form, text):
            value = match["value"].strip("\"'")
            if match.start("value") in taken or value in lexicon.names:
                continue
            taken |= set(range(*match.span("value")))
            if value in lexicon.topics[who]["currencies"]:
                yield Claim(OK, fact, match.span("value"))
                continue
            close = any(similar(value, unit) for unit in lexicon.units[who])
            if close or also:
                yield Claim(OPEN, f"{fact}; {value}?", match.span("value"))
            else:
                yield Claim(WRONG, f"{fact}, not {value}", match.span("value"))
