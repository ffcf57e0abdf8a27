"""What is known of countries: the packages' facts with the corrections, as one JSON tree.

    topics      name -> Country, for every country that questions are asked about
    names       every name of a country or territory -> its first name
    demonyms    word -> names of the countries it may mean
    cities      every name of a capital -> names of the countries
    languages   names of languages that a sentence may speak of
    currencies  name of a country -> its currencies, each {code, name}
    regions     name of a region -> names of the countries in it
    places      name of a country or territory -> latitude and longitude of its middle

Where a fact has several right answers all are there; what may be right is under ``open``.
"""

import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

from maskdpo_ray.config.yaml_text import parse_yaml
from maskdpo_ray.errors import UserError

CORRECTIONS = Path(__file__).with_name("corrections.yaml")
REMEDY = "pip install 'maskdpo-ray[real]'"
# Names of the United Nations' regions as people say them.
REGIONS = {
    "South-eastern Asia": "Southeast Asia",
    "Latin America and the Caribbean": "Latin America",
    "Sub-Saharan Africa": "Sub-Saharan Africa",
    "Americas": "Americas",
    "Eastern Asia": "East Asia",
}
LANGUAGES = {"Modern Greek": "Greek", "Panjabi": "Punjabi", "Pushto": "Pashto"}


class Country(TypedDict):
    """Facts of one country. ``open`` lists hold what may be right: nobody can tell."""

    code: str  # ISO 3166-1 alpha-3
    names: list[str]  # the first is the topic
    demonyms: list[str]
    capitals: list[str]  # all are right; the first is the page's
    capitals_open: list[str]
    continent: str
    regions: list[str]  # all that it lies in, continent included
    borders: list[str]  # names of countries
    borders_open: list[str]
    languages: list[str]  # official, every name of each
    languages_spoken: list[str]  # no fault to name
    currencies: list[str]  # codes
    currencies_open: list[str]  # units
    landlocked: bool
    island: bool | None  # None: a continent


World = dict[str, Any]


@cache
def corrections() -> dict[str, Any]:
    return parse_yaml(CORRECTIONS.read_text(encoding="utf-8"))


def world() -> World:
    """The tree.

    Raises:
        UserError: a package is missing.
    """
    try:
        import pycountry
        from countryinfo import CountryInfo
    except ImportError as error:
        raise UserError(f"package {error.name} is not installed: {REMEDY}") from None
    fixes = corrections()
    entries = _entries(CountryInfo.all().values())
    names = _names(entries, pycountry)
    left_out = {code for group in fixes["left_out"] for code in group["codes"]}
    borders, doubtful = _borders(entries)
    regions = _regions(entries)
    topics: dict[str, Country] = {}
    for code in sorted(entries.keys() - left_out, key=lambda code: names[code][0]):
        entry = entries[code]
        capital = fixes["capitals"].get(code, {"are": [entry["capital"]]})
        money = fixes["currencies"].get(code, {"are": entry["currencies"]})
        official, spoken = _languages(entry, fixes["languages"].get(code), pycountry)
        topics[names[code][0]] = {
            "code": code,
            "names": names[code],
            "demonyms": _demonyms(code, entry),
            "capitals": capital["are"],
            "capitals_open": capital.get("open", []),
            "continent": entry["region"],
            "regions": sorted(region for region, inside in regions.items() if code in inside),
            "borders": sorted(names[other][0] for other in borders[code]),
            "borders_open": sorted(names[other][0] for other in doubtful[code]),
            "languages": official,
            "languages_spoken": spoken,
            "currencies": money["are"],
            "currencies_open": money.get("open", []),
            "landlocked": code in fixes["landlocked"],
            "island": code in fixes["islands"] or (False if borders[code] else None),
        }
    return {
        "topics": topics,
        "names": {name: of[0] for of in names.values() for name in of},
        "demonyms": _by_word(entries, names),
        "cities": _cities(entries, topics, names),
        "languages": _all_languages(topics, pycountry),
        "currencies": _currencies(topics, pycountry),
        "regions": {
            region: sorted(names[code][0] for code in inside) for region, inside in regions.items()
        },
        "places": {
            names[code][0]: entry["latlng"]
            for code, entry in entries.items()
            if entry.get("latlng")
        },
    }


def _entries(all_of_them: Any) -> dict[str, dict[str, Any]]:
    """By code. Entries without a place say nothing; the first of two with one code is kept."""
    found: dict[str, dict[str, Any]] = {}
    for entry in sorted(all_of_them, key=lambda entry: entry["name"]):
        code = (entry.get("ISO") or {}).get("alpha3")
        if code and code not in found and code not in corrections()["gone"]:
            found[code] = entry
    found["KOS"] = {"name": "Kosovo", "borders": [], "region": "Europe", "capital": "Pristina"}
    return found


def _names(entries: dict, pycountry: Any) -> dict[str, list[str]]:
    """All names of each; the first is what the country is called here."""
    found = {}
    for code, entry in entries.items():
        fix = corrections()["names"].get(code, {})
        official = pycountry.countries.get(alpha_3=code)
        others = [getattr(official, key, None) for key in ("name", "official_name", "common_name")]
        first = fix.get("name", entry["name"])
        # Of "Bolivia, Plurinational State of" and "Korea, Republic of" nobody says either.
        every = [first, *fix.get("also", []), entry["name"], *others]
        fit = (name for name in every if name and ("," not in name or name == first))
        found[code] = list(dict.fromkeys(n for n in fit if n not in corrections()["ambiguous"]))
    return found


def _borders(entries: dict) -> tuple[dict[str, set], dict[str, set]]:
    """Neighbours by land as both sides have them, and those that are in doubt."""
    pairs = {
        frozenset((code, other))
        for code, entry in entries.items()
        for other in entry.get("borders") or []
        if other in entries
    }
    doubtful = set()
    for fix in corrections()["borders"]:
        if "add" in fix:
            pairs.add(frozenset(fix["add"]))
        elif "drop" in fix:
            pairs.discard(frozenset(fix["drop"]))
        else:
            pairs.discard(frozenset(fix["open"]))
            doubtful.add(frozenset(fix["open"]))
    found: tuple[dict[str, set], dict[str, set]] = (defaultdict(set), defaultdict(set))
    for into, of in zip(found, (pairs, doubtful), strict=True):
        for one, other in map(tuple, of):
            into[one].add(other)
            into[other].add(one)
    return found


def _regions(entries: dict) -> dict[str, set[str]]:
    """Region -> codes: the United Nations' own, and those in common use."""
    found: dict[str, set[str]] = defaultdict(set)
    for code, entry in entries.items():
        for key in ("region", "subregion", "intermediateregion"):
            if region := entry.get(key):
                found[REGIONS.get(region, region)].add(code)
    for region in ("South America", "Central America", "Caribbean"):
        found["Latin America"] |= found[region]
    for region, codes in corrections()["regions"].items():
        found[region] |= set(codes)
    found["North America"] |= found["Northern America"] | found["Central America"]
    found["North America"] |= found["Caribbean"] - {"GUY", "SUR"}
    found["Pacific"] |= {code for code in found["Oceania"] if code not in ("AUS", "IDN", "TLS")}
    found["Australasia"] |= found["Australia and New Zealand"]
    return dict(found)


def _languages(entry: dict, fix: dict | None, pycountry: Any) -> tuple[list[str], list[str]]:
    if fix:
        return fix["official"], fix.get("spoken", [])
    return [_language(pycountry, code) for code in entry["languages"]], []


def _language(pycountry: Any, code: str) -> str:
    key = "alpha_2" if len(code) == 2 else "alpha_3"
    name = re.sub(r" \(.*", "", pycountry.languages.get(**{key: code}).name)
    return LANGUAGES.get(name, name)


def _all_languages(topics: dict[str, Country], pycountry: Any) -> list[str]:
    codes = [each.alpha_2 for each in pycountry.languages if hasattr(each, "alpha_2")]
    found = {_language(pycountry, code) for code in codes} - {"Ido", "Ga", "Tonga"}
    for country in topics.values():
        found |= {*country["languages"], *country["languages_spoken"]}
    return sorted(found)


def _demonyms(code: str, entry: dict) -> list[str]:
    words = re.split(r"[,/]| and ", entry.get("demonym") or "")
    return [*filter(None, map(str.strip, words)), *corrections()["demonyms"].get(code, [])]


def _by_word(entries: dict, names: dict[str, list[str]]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for code, entry in entries.items():
        for word in _demonyms(code, entry):
            found[word].append(names[code][0])
    return dict(found)


def _cities(entries: dict, topics: dict, names: dict[str, list[str]]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, country in topics.items():
        for city in [*country["capitals"], *country["capitals_open"]]:
            found[city].append(name)
    for code, entry in entries.items():
        city = entry.get("capital")
        if isinstance(city, str) and city and names[code][0] not in topics:
            found[city].append(names[code][0])
    return dict(found)


def _currencies(topics: dict[str, Country], pycountry: Any) -> dict[str, list[dict[str, str]]]:
    found = {}
    for name, country in topics.items():
        of = [pycountry.currencies.get(alpha_3=code) for code in country["currencies"]]
        missing = [code for code, each in zip(country["currencies"], of, strict=True) if not each]
        if missing:
            raise UserError(f"{name}: pycountry knows no currency {missing[0]}: {REMEDY}")
        found[name] = [{"code": each.alpha_3, "name": each.name} for each in of]
    return found
