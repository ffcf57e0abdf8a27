import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.token_spans import MaskError
from maskdpo_ray.preference.weights import (
    check_tiling,
    owning_sentences,
    tile_sentences,
    token_weights,
    truncate,
)
from maskdpo_ray.records import NO_SENTENCE, VERDICTS


def sentence(start, end, verdict="ok"):
    return {"start": start, "end": end, "verdict": verdict, "detail": ""}


#            0123456789012345678
RESPONSE = "A is b. C is d. Hm."
SENTENCES = [sentence(0, 8, "ok"), sentence(8, 16, "contradictory"), sentence(16, 19, "nofact")]
#        A       is      b       .       C        is        d.        Hm        .         end
SPANS = [(0, 1), (1, 4), (4, 6), (6, 7), (7, 9), (9, 12), (12, 15), (15, 18), (18, 19), (19, 19)]
OWNERS = owning_sentences(SPANS, RESPONSE, SENTENCES)
SOFT = PreferenceConfig(weights="confidence")


def weights(side, **options):
    return "".join(
        str(int(w)) for w in token_weights(OWNERS, SENTENCES, side, PreferenceConfig(**options))
    )


def test_chosen_learns_correct_and_rejected_incorrect_sentences():
    assert weights("chosen") == "1111000111"
    assert weights("rejected") == "0000111001"


def test_nofact_can_be_masked_on_both_sides():
    assert weights("chosen", no_fact="mask") == "1111000001"
    assert weights("rejected", no_fact="mask") == "0000111001"
    assert weights("chosen", no_fact="ignore") == "1111000001"
    assert weights("rejected", no_fact="ignore") == "0000111001"


@pytest.mark.parametrize(
    ("meaning", "chosen", "rejected"),
    [
        ("incorrect", "1111000001", "0000111111"),
        ("mask", "1111000001", "0000111001"),
        ("correct", "1111000111", "0000111001"),
    ],
)
def test_unverifiable_sentences_are_learnt_as_the_setting_says(meaning, chosen, rejected):
    sentences = [*SENTENCES[:2], {**SENTENCES[2], "verdict": "unverifiable"}]
    settings = PreferenceConfig(unverifiable=meaning)
    for side, expected in (("chosen", chosen), ("rejected", rejected)):
        found = token_weights(OWNERS, sentences, side, settings)
        assert "".join(str(int(w)) for w in found) == expected


def test_a_sentence_to_learn_from_can_weigh_the_confidence_of_its_verdict():
    sure = [{**s, "confidence": c} for s, c in zip(SENTENCES, (0.9, 0.75, 0.5), strict=True)]
    found = token_weights(OWNERS, sure, "chosen", SOFT)
    assert found == [0.9] * 4 + [0] * 3 + [0.5] * 2 + [1]
    found = token_weights(OWNERS, sure, "rejected", SOFT)
    assert found == [0] * 4 + [0.75] * 3 + [0] * 2 + [1]
    assert weights("chosen") == "1111000111", "asked for by nobody, it changes nothing"


def test_a_verdict_without_the_confidence_that_is_needed_is_an_error():
    with pytest.raises(MaskError, match="has no confidence: let its annotator tell one"):
        token_weights(OWNERS, SENTENCES, "chosen", SOFT)


def test_the_end_of_turn_can_be_masked_on_both_sides():
    assert weights("chosen", eos="mask") == "1111000110"
    assert weights("rejected", eos="mask") == "0000111000"


def test_a_token_belongs_to_the_owner_of_its_last_non_space_character():
    response = "One.\n\nTwo. "
    sentences = [sentence(0, 6), sentence(6, 11)]
    spans = [(0, 3), (3, 6), (3, 7), (5, 8), (9, 11), (10, 11), (4, 6), (6, 6)]
    #         One     .¶¶     .¶¶T    ¶Tw     ._       _         ¶¶      nothing
    assert owning_sentences(spans, response, sentences) == [0, 0, 1, 1, 1, 1, 0, NO_SENTENCE]


@pytest.mark.parametrize("verdict", ["error", "", "OK", "hallucination", "true"])
def test_error_and_unknown_verdicts_raise(verdict):
    with pytest.raises(ValueError, match="neither correct nor incorrect"):
        token_weights([0], [sentence(0, 1, verdict)], "chosen", PreferenceConfig())


@pytest.mark.parametrize("verdict", [v for v in VERDICTS if v != "error"])
def test_every_verdict_is_learnt_on_exactly_one_side(verdict):
    sides = [
        token_weights([0], [sentence(0, 1, verdict)], side, PreferenceConfig())
        for side in ("chosen", "rejected")
    ]
    assert sorted(sides) == [[0.0], [1.0]]


@pytest.mark.parametrize(
    "spans",
    [[], [(0, 3)], [(0, 3), (4, 5)], [(1, 5)], [(0, 6)], [(0, 3), (2, 5)], [(0, 0), (0, 5)]],
)
def test_sentences_that_do_not_tile_are_an_error(spans):
    with pytest.raises(MaskError) as raised:
        check_tiling("abcde", [sentence(*span) for span in spans])
    assert raised.value.reason == "mask_spans_do_not_tile"


def test_tiling_gives_white_space_to_the_sentence_before():
    response = "  One.  Two.\n\nThree. "
    given = [sentence(2, 6), sentence(8, 12, "nofact"), sentence(14, 20)]
    tiled = tile_sentences(response, given)
    assert [response[s["start"] : s["end"]] for s in tiled] == ["  One.  ", "Two.\n\n", "Three. "]
    assert [s["verdict"] for s in tiled] == ["ok", "nofact", "ok"]
    assert tile_sentences(response, tiled) == tiled
    assert tile_sentences("not annotated", []) == []


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([(2, 4)], "mask_text_outside_sentences"),
        ([(0, 2), (4, 6)], "mask_text_outside_sentences"),
        ([(0, 4)], "mask_text_outside_sentences"),
        ([(0, 4), (3, 6)], "mask_spans_invalid"),
        ([(0, 6), (0, 4)], "mask_spans_invalid"),
        ([(0, 7)], "mask_spans_invalid"),
        ([(-1, 6)], "mask_spans_invalid"),
        ([(0, 0), (0, 6)], "mask_spans_invalid"),
    ],
)
def test_text_outside_sentences_and_bad_spans_are_errors(spans, reason):
    with pytest.raises(MaskError) as raised:
        tile_sentences("ab cde", [sentence(*span) for span in spans])
    assert raised.value.reason == reason


GAPS = st.sampled_from(["", " ", "\n\n"])


@given(st.lists(st.tuples(GAPS, st.text("ab. ", min_size=1)), min_size=1))
def test_tiling_always_tiles(pieces):
    response, spans = "", []
    for gap, text in pieces:
        spans.append(sentence(len(response + gap), len(response + gap + text)))
        response += gap + text
    check_tiling(response, tile_sentences(response, spans))


def test_weights_are_cut_with_their_tokens():
    side = {
        "index": 0,
        "response": "abc",
        "token_ids": [5, 6, 7],
        "weights": [1.0, 0.0, 1.0],
        "owners": [0, 0, NO_SENTENCE],
        "correct": [1.0, 1.0, 0.0],
        "sentences": [sentence(0, 3)],
        "score": 1.0,
    }
    cut = truncate(side, 2)
    assert (cut["token_ids"], cut["weights"]) == ([5, 6], [1.0, 0.0])
    assert cut["owners"] == [0, 0]
    assert truncate(side, 3) == truncate(side, 9) == side
