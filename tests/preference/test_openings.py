import os.path

import pytest
import real_tokenizers
from hypothesis import given
from hypothesis import strategies as st
from selections import build_pair
from test_select import question

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.openings import Openings, sentence_keys
from maskdpo_ray.preference.select import NoPair

SENTENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), max_size=6)


@given(SENTENCES, st.lists(st.integers(0, 2), max_size=6).map(tuple))
def test_what_is_shared_is_the_longest_common_beginning(sentences, other):
    expected = max((len(os.path.commonprefix([each, other])) for each in sentences), default=0)
    assert Openings(sentences).shared(other) == expected


def test_weights_are_left_out_until_a_sentence_departs():
    owners = [0, 0, 0, 1, 1, 2, 2, -1]
    keys = {0: ("A", 1, 2), 1: ("A", 1), 2: ("B", 3)}
    openings = Openings([("A", 1, 5), ("B", 4)])
    found = openings.left_out([1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0], keys, owners)
    assert found == [0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0, 1.0]


def test_a_sentence_is_told_by_its_tokens_whatever_stands_around_it():
    """The first word of an answer has no space in front; what stands behind a sentence is a part of
    its last token, or a token of its own."""
    response = "He is. He is.\n\nHe is. \n"
    spans = [(0, 2), (2, 5), (5, 6), (6, 9), (9, 12), (12, 15), (15, 17), (17, 20), (20, 21)]
    spans += [(21, 22), (22, 23), (23, 23)]
    owners = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, -1]
    keys = sentence_keys([7, 1, 2, 8, 1, 3, 7, 1, 2, 4, 5, 0], spans, response, owners)
    assert keys == dict.fromkeys(range(3), ("He", " is", "."))
    found = Openings([keys[0]]).left_out([1.0] * 12, keys, owners)
    assert found == [0.0] * 11 + [1.0], "blank tokens go with their sentence"


def test_tokens_within_a_character_are_told_apart_by_their_ids():
    """The bytes of one character: the text of each is that whole character."""
    spans = [(0, 1), (0, 1), (1, 2)]
    keys = [
        sentence_keys([first, second, 9], spans, text, [0, 0, 0])[0]
        for first, second, text in ((5, 6, "\u00e9a"), (5, 7, "\u00e8a"))
    ]
    assert keys == [(5, 6, "a"), (5, 7, "a")]
    assert Openings(keys[:1]).shared(keys[1]) == 1


@pytest.fixture
def tokenizer():
    return real_tokenizers.sentencepiece_tokenizer()


def row_of(tokenizer, *answers):
    """Answers given as lists of (verdict's letter, sentence)."""
    row = question(tokenizer, *("".join(letter for letter, _ in answer) for answer in answers))
    for candidate, answer in zip(row["candidates"], answers, strict=True):
        candidate["response"] = " ".join(text for _, text in answer)
        start = 0
        for number, (sentence, (_, text)) in enumerate(
            zip(candidate["sentences"], answer, strict=True), start=1
        ):
            sentence["start"] = start
            start += len(text) + (number < len(answer))
            sentence["end"] = start
        ids = tokenizer.encode(candidate["response"], add_special_tokens=False)
        candidate["token_ids"] = [*ids, tokenizer.eos_token_id]
    return row


def weighed(tokenizer, side):
    kept = [i for i, w in zip(side["token_ids"], side["weights"], strict=True) if w]
    return tokenizer.decode(kept, skip_special_tokens=True)


def test_the_opening_of_an_incorrect_sentence_weighs_nothing(tokenizer):
    """Correct sentences of any candidate count, those of the pair and others."""
    row = row_of(
        tokenizer,
        [("o", "It is red."), ("o", "He was born in Rome.")],
        [("c", "He was born in Oslo."), ("c", "She has nothing."), ("u", "It was big.")],
        [("c", "No."), ("o", "It was red.")],
    )
    keep, mask = (
        build_pair(row, tokenizer, [7], PreferenceConfig(shared_openings=which))
        for which in ("keep", "mask")
    )
    assert keep["rejected"]["index"] == mask["rejected"]["index"] == 1
    assert weighed(tokenizer, keep["rejected"]) == row["candidates"][1]["response"]
    assert weighed(tokenizer, mask["rejected"]) == "Oslo. She has nothing. big."
    assert mask["chosen"] == keep["chosen"]
    assert mask["rejected"]["correct"] == keep["rejected"]["correct"]


def test_a_sentence_that_says_nothing_else_weighs_nothing(tokenizer):
    answers = [[("o", "It is red.")], [("c", "It is red."), ("c", "No.")], [("c", "It is red.")]]
    row = row_of(tokenizer, *answers[:2])
    pair = build_pair(row, tokenizer, [7], PreferenceConfig(shared_openings="mask"))
    assert weighed(tokenizer, pair["rejected"]) == "No."
    row = row_of(tokenizer, [("o", "It is red. Or so.")], answers[2])
    with pytest.raises(NoPair) as raised:
        build_pair(row, tokenizer, [7], PreferenceConfig(shared_openings="mask"))
    assert raised.value.reason == "zero_weight_rejected"
    assert "preference.shared_openings" in str(raised.value)


def test_verdicts_count_as_they_do_in_the_mask(tokenizer):
    """A sentence without facts opens nothing where it weighs nothing; beside an error none does."""
    row = row_of(
        tokenizer,
        [("o", "A red one.")],
        [("c", "He was big.")],
        [("n", "He was so."), ("c", "No."), ("c", "No.")],
        [("o", "He was big"), ("e", "?")],
    )
    for no_fact, expected in (("correct", "big."), ("mask", "He was big.")):
        settings = PreferenceConfig(shared_openings="mask", no_fact=no_fact)
        pair = build_pair(row, tokenizer, [7], settings)
        assert weighed(tokenizer, pair["rejected"]) == expected
