"""The packages' facts with their corrections; what is held here was looked up in an atlas."""

import builtins
from itertools import chain

import pytest

from maskdpo_ray.errors import UserError
from maskdpo_ray.world.countries import facts

KNOWN = {
    "Germany": {
        "capitals": ["Berlin"],
        "languages": ["German"],
        "currencies": ["EUR"],
        "borders": [
            "Austria",
            "Belgium",
            "Czech Republic",
            "Denmark",
            "France",
            "Luxembourg",
            "Netherlands",
            "Poland",
            "Switzerland",
        ],
    },
    "Serbia": {
        "borders": [
            "Bosnia and Herzegovina",
            "Bulgaria",
            "Croatia",
            "Hungary",
            "Kosovo",
            "Montenegro",
            "North Macedonia",
            "Romania",
        ],
        "languages": ["Serbian"],
    },
    "Nepal": {"borders": ["China", "India"], "capitals": ["Kathmandu"], "landlocked": True},
    "India": {
        "borders": ["Bangladesh", "Bhutan", "China", "Myanmar", "Nepal", "Pakistan"],
        "borders_open": ["Afghanistan"],
    },
    "South Sudan": {
        "borders": [
            "Central African Republic",
            "Democratic Republic of the Congo",
            "Ethiopia",
            "Kenya",
            "Sudan",
            "Uganda",
        ]
    },
    "Kazakhstan": {"capitals": ["Astana"], "island": False},
    "Japan": {"borders": [], "island": True, "landlocked": False},
    "Australia": {"borders": [], "island": None},
    "Croatia": {"currencies": ["EUR"], "currencies_open": ["kuna"]},
    "South Africa": {"capitals": ["Pretoria", "Cape Town", "Bloemfontein"]},
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known(countries, name):
    found = countries["topics"][name]
    assert {key: found[key] for key in KNOWN[name]} == KNOWN[name]


def test_borders_are_those_of_both_sides(countries):
    topics = countries["topics"]
    for name, country in topics.items():
        for key in ("borders", "borders_open"):
            for other in country[key]:
                assert other in countries["names"].values()
                assert other not in topics or name in topics[other][key], (name, other)
        assert not set(country["borders"]) & set(country["borders_open"])
        assert country["borders"] or not country["landlocked"]


def test_every_country_has_every_fact(countries):
    assert len(countries["topics"]) == 192
    for name, country in countries["topics"].items():
        for key in ("capitals", "languages", "currencies", "regions", "demonyms", "continent"):
            assert country[key], (name, key)
        assert country["continent"] in country["regions"]
        assert countries["currencies"][name]
        assert not set(country["capitals"]) & set(country["capitals_open"])


def test_a_name_is_that_of_one_country(countries):
    for name, country in countries["topics"].items():
        assert {countries["names"][each] for each in country["names"]} == {name}
    assert "Congo" not in countries["names"]
    assert countries["names"]["the UK".removeprefix("the ")] == "United Kingdom"


def test_every_correction_concerns_a_country_and_says_why(countries):
    fixes = facts.corrections()
    codes = {country["code"] for country in countries["topics"].values()}
    left_out = set(chain.from_iterable(group["codes"] for group in fixes["left_out"]))
    assert not codes & left_out
    assert all(group["why"] for group in fixes["left_out"])
    for key in ("names", "capitals", "languages", "currencies"):
        for code, fix in fixes[key].items():
            assert fix["why"] and code in codes | left_out, (key, code)
    for fix in fixes["borders"]:
        (pair,) = (fix[key] for key in ("add", "drop", "open") if key in fix)
        assert fix["why"] and set(pair) <= codes | left_out, pair
    assert {*fixes["landlocked"], *fixes["islands"]} <= codes
    assert not set(fixes["landlocked"]) & set(fixes["islands"])


def test_a_missing_package_says_what_to_do(monkeypatch):
    really = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "countryinfo":
            raise ImportError("no", name=name)
        return really(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"countryinfo is not installed: pip install .*\[real\]"):
        facts.world()
