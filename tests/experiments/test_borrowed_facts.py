"""Wrong sentences that state facts of other topics."""

import numpy as np
import pytest

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
    found = by_distance(neighbour, facts, topics, on_a_circle(21), bins=5)
    assert shares(found) == pytest.approx([25, 0, 0, 0, 0])  # one of four in the nearest part
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


def test_names_and_years_of_real_text_without_the_topic():
    sentence = "Ada Lovelace met Charles Babbage in London in 1833."
    assert stated_elsewhere("Ada Lovelace", sentence) == {
        ("entity", "Charles Babbage"), ("entity", "London"), ("entity", "1833")
    }  # fmt: skip


def test_wrong_sentences_alone():
    sentences = [
        {"start": 0, "end": 5, "verdict": "ok"},
        {"start": 5, "end": 11, "verdict": "contradictory"},
        {"start": 11, "end": 16, "verdict": "unverifiable"},
    ]
    candidate = {"response": "Yes. Nope. Who?!", "sentences": sentences}
    rows = [{"topic": "t", "candidates": [candidate]}]
    assert wrong_sentences(rows) == [("t", "Nope."), ("t", "Who?!")]
