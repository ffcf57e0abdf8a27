"""The facts as words that are found in sentences."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from maskdpo_ray.world.countries.reading.words import (
    CENTRAL,
    CONTINENT,
    DIRECTION,
    alternation,
    heading,
    plain,
)

# Units of currencies as people write them; of others the last word of the name is the unit.
UNITS = {
    "CFA Franc BCEAO": ["franc", "cfa"],
    "CFA Franc BEAC": ["franc", "cfa"],
    "Bolívar Soberano": ["bolivar", "bolivares"],
    "Convertible Mark": ["mark", "marka"],
    "Cordoba Oro": ["cordoba"],
    "Peso Uruguayo": ["peso"],
    "Pound Sterling": ["pound", "sterling"],
    "Rial Omani": ["rial", "riyal"],
    "Sol": ["sol", "nuevo sol", "soles"],
    "Uzbekistan Sum": ["sum", "som"],
    "Yuan Renminbi": ["yuan", "renminbi", "RMB"],
    "Zimbabwe Gold": ["ZiG"],
}
SPELLINGS = {
    "rial": ["riyal"],
    "riyal": ["rial"],
    "ruble": ["rouble"],
    "tugrik": ["togrog"],
    "krone": ["kroner"],
    "krona": ["kronor"],
    "koruna": ["crown"],
    "leu": ["lei"],
    "lilangeni": ["emalangeni"],
    "loti": ["maloti"],
    "colon": ["colones"],
}
NO_MORE = "peseta escudo mark guilder florin drachma kuna tolar colon lats litas lev leva".split()


class Mention(NamedTuple):
    start: int
    end: int
    text: str  # as written, accents apart


class Lexicon:
    """What can be found in a sentence.

    Args:
        world: the tree of ``facts.json``.
    """

    def __init__(self, world: dict[str, Any]) -> None:
        self.world = world
        self.topics = world["topics"]
        self.names = {plain(name): first for name, first in world["names"].items()}
        self.demonyms = {plain(word): of for word, of in world["demonyms"].items()}
        self.cities = {plain(city): of for city, of in world["cities"].items()}
        self.units = {
            name: {unit for each in of for unit in units_of(each["name"])}
            for name, of in world["currencies"].items()
        }
        self.codes = {each["code"] for of in world["currencies"].values() for each in of}
        self.headings = {
            name: {key for region in country["regions"] if (key := heading_of(region))}
            for name, country in self.topics.items()
        }
        self._find()

    def _find(self) -> None:
        """The patterns, the longest name first."""
        parts = "".join(rf"(?<!{word} )" for word in ("South", "North", "Latin", "Central"))
        country = rf"(?:the |The )?(?:{alternation(self.names)})"
        self.COUNTRY = re.compile(rf"(?<![\w-])(?:{parts}America|(?!America\b){country})(?![\w-])")
        languages = alternation({plain(name) for name in self.world["languages"]})
        self.LANGUAGES = re.compile(rf"(?<![\w-])(?:{languages})(?!\w)")
        in_doubt = (plain(u) for each in self.topics.values() for u in each["currencies_open"])
        units = alternation({*NO_MORE, *in_doubt}.union(*self.units.values()))
        self.UNIT = re.compile(
            rf"(?<!\w)(?P<whose>(?:[A-Z][\w.'-]*[ -])*)(?P<unit>(?i:{units}))"
            r"(?:e?s)?(?!\w)(?: ?\((?P<code>[A-Z]{2,5})\))?"
        )
        named = alternation(plain(each) for each in self.world["regions"] if not heading_of(each))
        part = r"[- ](?:part|region|side|end|corner|coast|area)"
        self.REGION = re.compile(
            rf"\b(?:(?:the )?(?P<named>{named})(?P<n_end>n)?\b"
            rf"|(?:(?P<dir>{DIRECTION}|{CENTRAL})(?P<most>{part})?[- ]?(?:of )?(?:the )?"
            rf"(?:continent of )?)?(?P<cont>{CONTINENT})(?P<c_end>a?n)?\b)",
            re.IGNORECASE,
        )

    @staticmethod
    def mentions(pattern: re.Pattern, text: str) -> Iterator[Mention]:
        for match in pattern.finditer(text):
            yield Mention(match.start(), match.end(), match.group())

    def country(self, text: str) -> str:
        """The first name of the country that ``COUNTRY`` found."""
        bare = re.sub(r"^[Tt]he ", "", text)
        return self.names[bare if bare in self.names else text]

    def subject(self, topic: str, text: str) -> str | None:
        """Whom a sentence is about: the topic, unless it opens with another country."""
        opening = self.COUNTRY.match(text)
        if opening is None or self.country(opening.group()) == topic:
            return topic
        after = text[opening.end() :]
        if re.match(r"(?:'s)? (?:is|are|was|has|have|borders|shares|lies|capital|uses)\b", after):
            other = self.country(opening.group())
            return other if other in self.topics else None
        return topic

    def of(self, phrase: str | None, who: str) -> str | None:
        """The country in "of Kenya", or ``who``; None for one that nothing is known of."""
        if not phrase or not (found := self.COUNTRY.search(phrase)):
            return who
        other = self.country(found.group())
        return other if other in self.topics else None


def units_of(currency: str) -> list[str]:
    """Words for its unit, lower case but for "RMB" and "ZiG"."""
    if currency in UNITS:
        return UNITS[currency]
    unit = plain(currency).lower().split()[-1]
    return [unit, *SPELLINGS.get(unit, [])]


def heading_of(region: str) -> tuple[str, str] | None:
    """("se", "Asia") of "Southeast Asia"; None where a region has a name of its own."""
    match = re.fullmatch(
        rf"(?:(?P<dir>{DIRECTION}|{CENTRAL}) )?(?P<cont>{CONTINENT})", region, re.IGNORECASE
    )
    return (side_of(match["dir"]), match["cont"].capitalize()) if match else None


def side_of(words: str | None) -> str:
    """The heading of "southern", ``c`` of "central", nothing of nothing."""
    return heading(words) or "c" if words else ""
