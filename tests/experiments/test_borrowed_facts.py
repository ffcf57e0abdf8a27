"""Wrong sentences that state facts of other topics."""

import numpy as np
import pytest

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.borrowed_facts import (
    by_distance,
    stated_elsewhere,
    stated_in_world,
    wrong_sentences,
)
from maskdpo_ray.experiments.compare import difference


def on_a_circle(count: int) -> np.ndarray:
    angle = np.linspace(0, np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def shares(found) -> list[float]:
    return [part.score for part in found]


def test_facts_borrowed_from_the_nearest_are_seen():
    topics = [f"t{n}" for n in range(21)]
    facts = {topic: {("fact", topic)} for topic in topics}
    neighbour = [(topics[n], {("fact", topics[n + 1])}) for n in range(20)]
    found = by_distance(neighbour, facts, topics, on_a_circle(21), bins=10)
    assert shares(found) == pytest.approx([50, *[0] * 9])  # one of two in the nearest part
    assert sum(pairs for of in found for _, pairs in of.parts.values()) == 20 * 20
    assert difference(found[:1], found[-1:])["ci95"][0] > 0


def test_facts_borrowed_from_anybody_show_no_slope():
    random = np.random.default_rng(0)
    topics = [f"t{n}" for n in range(101)]
    facts = {topic: {("fact", random.integers(10))} for topic in topics}
    stated = [(topic, {("fact", random.integers(10))}) for topic in topics for _ in range(30)]
    found = by_distance(stated, facts, topics, on_a_circle(101), bins=5)
    low, high = difference(found[:1], found[-1:])["ci95"]
    assert low < 0 < high
    assert shares(found) == pytest.approx([10] * 5, abs=1.5)


def test_the_topic_itself_is_no_other_topic():
    topics = ["a", "b", "c"]
    facts = {topic: {("fact", topic)} for topic in topics}
    found = by_distance([("a", {("fact", "a")})], facts, topics, on_a_circle(3), bins=2)
    assert shares(found) == [0, 0]


def test_statements_of_the_closed_world():
    assert stated_in_world("Ada Belbury worked as a baker.") == {("occupation", "baker")}
    assert stated_in_world("The Anchor Company is believed to have employed Belbury.") == {
        ("employer", "Anchor")
    }
    assert stated_in_world("Nothing more is known about Belbury.") == set()
    assert stated_in_world("gibberish") == set()


@pytest.mark.parametrize(
    ("sentence", "stated"),
    [
        (
            "Ada Lovelace met Charles Babbage in London in 1833.",
            {"Charles Babbage", "London", "1833"},
        ),
        # Any sentence begins with a capital; the first word counts as part of a longer name alone.
        ("After the war she moved. However, this was late. Mathematics was all.", set()),
        ("In London she wrote.", {"In London", "London"}),
        ("Charles Babbage wrote to her.", {"Charles Babbage", "Babbage"}),
        ("Babbage wrote to Mary Somerville.", {"Mary Somerville"}),
        ('He called her "Enchantress" and said: "They know."', set()),
        ("She knew Dr. Crosse, the U.S. Senate and Zoë O'Brien-Smith.",
         {"Crosse", "Senate", "Zoë O'Brien-Smith"}),
        ("Born in 815, she led 12,300 men of 55 and 1.250 in the 1840s.", {"815"}),
        ("Nothing is stated here.", set()),
    ],
)  # fmt: skip
def test_names_and_years_of_english_without_the_topic(sentence, stated):
    assert stated_elsewhere("Ada Lovelace", sentence) == {("entity", name) for name in stated}


@pytest.mark.parametrize(
    ("sentence", "stated"),
    [
        ("她于1833年写了《分析机笔记》。", {"1833", "分析机笔记"}),
        ("她在伦敦认识了“差分机之父”。", {"差分机之父"}),
        ("她是「数字女巫」，即『先知』。", {"数字女巫", "先知"}),
        ("Babbage是她的朋友。", {"Babbage"}),  # no capital marks the beginning of a sentence
        ("他说：“我认为她的工作比我所做过的任何事情都更加重要。”", set()),  # speech, no name
        ("《艾达·洛夫莱斯》讲述艾达·洛夫莱斯的一生。", set()),
        ("她是数学家。", set()),
    ],
)
def test_titles_quoted_names_and_years_of_chinese_without_the_topic(sentence, stated):
    found = stated_elsewhere("艾达·洛夫莱斯", sentence)
    assert found == {("entity", name) for name in stated}


def test_where_nothing_is_stated_the_reason_is_told():
    topics = ["a", "b", "c"]
    facts = {topic: {("fact", topic)} for topic in topics}
    with pytest.raises(UserError, match="none of 2 wrong sentences about 3 topics states anything"):
        by_distance([("a", set()), ("nobody", {("fact", "a")})], facts, topics, on_a_circle(3), 2)
    with pytest.raises(UserError, match="3 topics are too few for 5 parts"):
        by_distance([("a", {("fact", "b")})], facts, topics, on_a_circle(3), bins=5)


def test_wrong_sentences_alone():
    sentences = [
        {"start": 0, "end": 5, "verdict": "ok"},
        {"start": 5, "end": 11, "verdict": "contradictory"},
        {"start": 11, "end": 16, "verdict": "unverifiable"},
    ]
    candidate = {"response": "Yes. Nope. Who?!", "sentences": sentences}
    rows = [{"topic": "t", "candidates": [candidate]}]
    assert wrong_sentences(rows) == [("t", "Nope."), ("t", "Who?!")]
