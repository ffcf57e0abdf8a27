"""Sentences about countries: some by hand, and the model's own answers that were labelled.

``answers_about_countries.jsonl`` holds sentences that SmolLM2-135M-Instruct said (greedy, and
sampled at 0.8) about training and validation countries, each labelled from the facts before its
verdict was seen. Rules were written on the part ``rules``. Of ``held_out`` those drawn by verdict
showed three more (a country beside itself, cities, borders at sea), which were mended afterwards,
and those drawn at random one ("a European country").
"""

import json
from collections import Counter
from pathlib import Path

import pytest
from places import read_jsonl

from maskdpo_ray.config.annotation import AnnotationConfig
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.world.countries.reading.sentence import Reader
from maskdpo_ray.world.countries.reading.words import plain

LABELLED = read_jsonl(Path(__file__).with_name("answers_about_countries.jsonl"))
BY_HAND = read_jsonl(Path(__file__).with_name("sentences_about_countries.jsonl"))
ASKED = "What is the capital of it, and on which continent does the country lie?"


@pytest.fixture(scope="module")
def reader(countries):
    return Reader(countries)


@pytest.mark.parametrize("row", BY_HAND, ids=lambda row: row["sentence"])
def test_a_sentence_is_read(reader, row):
    found = reader.read(row["topic"], row["question"], row["sentence"])
    assert found.verdict == row["verdict"], found.detail
    assert found.detail


def test_the_detail_names_the_fact(reader):
    wrong = reader.read("Kenya", ASKED, "The capital of Kenya is Kampala.")
    assert wrong.detail == "capital of Kenya: Nairobi, not Kampala"
    part = reader.read("Kenya", ASKED, "Nairobi is the capital of Kenya, founded in 1899.")
    assert part.verdict == "unverifiable" and "1899" in part.detail and "Nairobi" in part.detail


def measured(reader, part: str, drawn: str) -> dict[str, tuple[int, int, int]]:
    """By verdict: how often it was given, rightly given, and right."""
    pairs = Counter(
        (reader.read(row["topic"], row["question"], row["sentence"]).verdict, row["label"])
        for row in LABELLED
        if row["part"] == part and row["drawn"] == drawn
    )
    return {
        verdict: (
            sum(count for (said, _), count in pairs.items() if said == verdict),
            pairs[verdict, verdict],
            sum(count for (_, label), count in pairs.items() if label == verdict),
        )
        for verdict in ("ok", "nofact", "contradictory", "unverifiable")
    }


def test_precision_and_recall_on_labelled_answers(reader):
    """The figures stand in docs/real.md: change them there too."""
    assert measured(reader, "rules", "at random") == {
        "ok": (9, 9, 12),
        "nofact": (8, 8, 10),
        "contradictory": (43, 42, 50),
        "unverifiable": (72, 59, 60),
    }
    assert measured(reader, "rules", "by verdict") == {
        "ok": (27, 26, 28),
        "nofact": (8, 6, 6),
        "contradictory": (12, 10, 17),
        "unverifiable": (43, 34, 39),
    }
    assert measured(reader, "held_out", "at random") == {
        "ok": (3, 3, 7),
        "nofact": (13, 11, 14),
        "contradictory": (55, 51, 56),
        "unverifiable": (61, 49, 55),
    }
    assert measured(reader, "held_out", "by verdict") == {
        "ok": (31, 30, 30),
        "nofact": (8, 8, 11),
        "contradictory": (19, 16, 16),
        "unverifiable": (26, 23, 27),
    }


def test_hardly_anything_wrong_is_ok(reader):
    said = [
        row["sentence"]
        for row in LABELLED
        if row["label"] == "contradictory"
        and reader.read(row["topic"], row["question"], row["sentence"]).verdict == "ok"
    ]
    assert not said


def test_accents_and_quotes_are_folded():
    assert plain("Brasília’s  “złoty”\nCôte d’Ivoire") == "Brasilia's “zloty” Cote d'Ivoire"


def test_it_is_an_annotator_like_any_other(countries, tmp_path):
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps(countries))
    settings = AnnotationConfig.of(
        annotator="maskdpo_ray.world.countries.annotator:Countries", facts=str(facts)
    )
    annotator = settings.kind.build(settings, None)
    asked = {"id": "q", "topic": "Kenya", "question": ASKED}
    assert annotator.verdict(asked, "The capital is Nairobi.").verdict == "ok"
    with pytest.raises(RowRejected, match="'Atlantis', which is no country of annotation.facts"):
        annotator.verdict({**asked, "topic": "Atlantis"}, "It sank.")
    identity = settings.kind.identity(settings, "annotation")
    facts.write_text(json.dumps({**countries, "names": {}}))
    assert settings.kind.identity(settings, "annotation") != identity
