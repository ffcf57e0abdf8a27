"""Questions, splits and pages of the countries, on disk."""

import json
from collections import Counter

import pytest
from places import read_jsonl

from maskdpo_ray.knowledge.database import Knowledge
from maskdpo_ray.questions import read_questions
from maskdpo_ray.world.countries.build import build_countries
from maskdpo_ray.world.countries.pages import listed, page, with_article
from maskdpo_ray.world.countries.questions import FORMS, parts

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def built(countries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("countries")
    build_countries(folder)
    return folder


def test_no_country_stands_in_two_parts(countries):
    found = parts(countries)
    assert sorted(sum(found.values(), [])) == sorted(countries["topics"])
    assert {part: len(names) for part, names in found.items()} == {
        "train": 96,
        "validation": 39,
        "test": 57,
    }
    for names in found.values():  # every continent in every part
        assert {countries["topics"][name]["continent"] for name in names} == {
            "Africa",
            "Americas",
            "Asia",
            "Europe",
            "Oceania",
        }


@pytest.mark.parametrize("part", PARTS)
def test_questions_are_read_as_they_were_written(built, countries, part):
    rows = [row for _, row in read_questions(built / f"{part}.jsonl")]
    names = parts(countries)[part]
    assert len(rows) == len(names) * len(FORMS) == len({row["id"] for row in rows})
    first = rows[: len(names)]
    assert [row["topic"] for row in first] == names
    count = Counter(row["id"].partition(".")[2] for row in first)
    assert set(count) == set(FORMS) and max(count.values()) - min(count.values()) <= 1
    for row in rows:
        assert with_article(row["topic"]) in row["question"]
        assert row["document"] == page(countries, row["topic"])


def test_a_region_holds_its_part_of_each_file(built, countries):
    for part in PARTS:
        files = sorted((built / "regions").glob(f"*-{part}.jsonl"))
        rows = [(file.name, row) for file in files for row in read_jsonl(file)]
        whole = {row["id"] for row in read_jsonl(built / f"{part}.jsonl")}
        assert {row["id"] for _, row in rows} == whole and len(rows) == len(whole)
        for name, row in rows:
            assert name.startswith(countries["topics"][row["topic"]]["continent"].lower())


def test_the_pages_are_a_knowledge_base(built, countries):
    pages = Knowledge(str(built / "knowledge.db"))
    for name in countries["topics"]:
        assert pages.page(name) == page(countries, name)
    assert pages.search("Which country has Ouagadougou as its capital?", 1)[0][0] == "Burkina Faso"


def test_a_page_says_what_is_known_and_nothing_in_doubt(countries):
    assert page(countries, "Netherlands") == (
        "The Netherlands lies in Northern Europe, Western Europe and Europe. It is also called "
        "Holland or Kingdom of the Netherlands. Its capital is Amsterdam. It has land borders with "
        "Belgium and Germany. Its official language is Dutch; Frisian, West Frisian, Western "
        "Frisian and English are spoken too. Its currency is the Euro (EUR)."
    )
    assert "The Hague" not in page(countries, "Netherlands")
    assert "It has no land border." in page(countries, "Jamaica")


def test_what_stands_there_is_not_written_again(built):
    before = {file: file.stat().st_mtime_ns for file in built.rglob("*.*")}
    build_countries(built)
    assert {file: file.stat().st_mtime_ns for file in built.rglob("*.*")} == before
    recipe = json.loads((built / "world.json").read_text())
    (built / "world.json").write_text(json.dumps({**recipe, "code": "of yesterday"}))
    build_countries(built)
    assert json.loads((built / "world.json").read_text()) == recipe


def test_lists_are_read_as_people_write_them():
    assert listed(["a"]) == "a" and listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"], "or") == "a, b or c"
