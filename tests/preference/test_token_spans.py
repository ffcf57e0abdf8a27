import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tokenizers import sentencepiece_tokenizer as sentencepiece

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.token_spans import MaskError, token_spans
from maskdpo_ray.preference.weights import owning_sentences, token_weights

TEXT = "Zoë 🎉 她出生于伦敦。 naïve\n\nEnd."


def response_text(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def assert_covers(spans, response):
    """Ends never go back, a span begins no later than the text before it ended: no gap."""
    position = 0
    for start, end in spans:
        assert start <= position <= end
        position = end
    assert position == len(response)


def test_whole_characters_split_over_tokens(gpt2_tokenizer):
    response = "a🎉b"
    ids = gpt2_tokenizer.encode(response)
    assert len(ids) == 5  # three of them hold the four bytes of the emoji
    assert token_spans(gpt2_tokenizer, ids, response) == [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]


def test_the_given_ids_count_not_the_canonical_ones(llama3_tokenizer):
    response = "The capital."
    letters = [i for c in response for i in llama3_tokenizer.encode(c, add_special_tokens=False)]
    assert letters != llama3_tokenizer.encode(response, add_special_tokens=False)
    assert token_spans(llama3_tokenizer, letters, response) == [(n, n + 1) for n in range(12)]


def test_special_tokens_stand_empty_where_they_are(llama3_tokenizer):
    end = llama3_tokenizer.convert_tokens_to_ids("<|eot_id|>")
    hi = llama3_tokenizer.encode("hi", add_special_tokens=False)
    spans = token_spans(llama3_tokenizer, [end, *hi, end, *hi, end, end], "hihi")
    assert spans == [(0, 0), (0, 2), (2, 2), (2, 4), (4, 4), (4, 4)]


def test_token_zero_is_an_ordinary_token(llama3_tokenizer):
    assert token_spans(llama3_tokenizer, [0, 0], "!!") == [(0, 1), (1, 2)]


def test_ids_beyond_the_vocabulary_write_nothing(llama3_tokenizer):
    beyond = len(llama3_tokenizer) + 7
    assert token_spans(llama3_tokenizer, [0, beyond, 0], "!!") == [(0, 1), (1, 1), (1, 2)]


def test_added_tokens_that_are_not_special_are_text(gpt2_tokenizer):
    import copy

    tokenizer = copy.deepcopy(gpt2_tokenizer)
    tokenizer.add_tokens(["<think>", "思考"])
    ids = tokenizer.convert_tokens_to_ids(["<think>", "思考"])
    response = response_text(tokenizer, ids)
    assert response == "<think>思考"
    assert token_spans(tokenizer, ids, response) == [(0, 7), (7, 9)]


def test_a_character_cut_off_at_the_end_is_its_replacement(gpt2_tokenizer):
    ids = gpt2_tokenizer.encode("ok 🎉")[:-1]
    response = response_text(gpt2_tokenizer, ids)
    assert response == "ok \ufffd"
    spans = token_spans(gpt2_tokenizer, ids, response)
    assert spans[-1] == (3, 4)
    assert_covers(spans, response)


def test_sentencepiece_drops_one_leading_space_only(sentencepiece_tokenizer):
    ids = sentencepiece_tokenizer.encode("Ada 🎉 é!", add_special_tokens=False)
    response = response_text(sentencepiece_tokenizer, ids)
    assert response == "Ada 🎉 é!"
    end = sentencepiece_tokenizer.eos_token_id
    spans = token_spans(sentencepiece_tokenizer, [*ids, end], response)
    assert spans[0][0] == 0 and spans[-1] == (len(response), len(response))
    assert spans.count((4, 5)) == 4  # the four bytes of the emoji
    assert spans.count((6, 7)) == 2
    assert_covers(spans, response)


@pytest.mark.parametrize("name", ["gpt2_tokenizer", "llama3_tokenizer", "sentencepiece_tokenizer"])
def test_spans_of_a_text_in_three_scripts(name, request):
    tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    spans = token_spans(tokenizer, ids, TEXT)
    assert_covers(spans, TEXT)
    for i, (start, end) in zip(ids, spans, strict=True):
        piece = response_text(tokenizer, [i])
        if "\ufffd" not in piece:  # tokens of whole characters can be checked one by one
            assert piece.strip() == TEXT[start:end].strip()


def test_a_space_that_the_decoder_drops_is_no_end_of_turn(
    sentencepiece_tokenizer,
):
    ids = [sentencepiece_tokenizer.convert_tokens_to_ids("▁")]
    ids += sentencepiece_tokenizer.convert_tokens_to_ids(["<0xE5>", "<0x96>", "<0x86>"])
    ids += [sentencepiece_tokenizer.eos_token_id]
    assert response_text(sentencepiece_tokenizer, ids) == "喆"
    spans = token_spans(sentencepiece_tokenizer, ids, "喆")
    assert spans == [(0, 0), *[(0, 1)] * 3, (1, 1)]
    sentences = [{"start": 0, "end": 1, "verdict": "contradictory", "detail": ""}]
    owners = owning_sentences(spans, "喆", sentences)
    settings = PreferenceConfig(eos="keep")
    assert token_weights(owners, sentences, "chosen", settings) == [0, 0, 0, 0, 1]
    assert token_weights(owners, sentences, "rejected", settings) == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("text", ["\ufffd喆", "a\ufffd喆b", "喆\ufffd", "\ufffd\ufffd喆 x"])
def test_a_replacement_character_that_is_meant(text, sentencepiece_tokenizer):
    ids = sentencepiece_tokenizer.encode(text, add_special_tokens=False)
    assert response_text(sentencepiece_tokenizer, ids) == text
    spans = token_spans(sentencepiece_tokenizer, ids, text)
    assert_covers(spans, text)
    # Three bytes each, none of them a letter of the vocabulary.
    assert spans[-3:] == [(len(text) - 1, len(text))] * 3 or text[-1] in "bx"


def test_ids_beyond_a_sentencepiece_vocabulary_keep_their_pair(sentencepiece_tokenizer):
    plain = sentencepiece_tokenizer.encode("She was", add_special_tokens=False)
    spans = token_spans(sentencepiece_tokenizer, plain, "She was")
    for beyond in (len(sentencepiece_tokenizer), 10**6):
        ids = [beyond, *plain[:2], beyond, *plain[2:], beyond]
        assert response_text(sentencepiece_tokenizer, ids) == "She was"
        end = spans[1][1]
        around = [(0, 0), *spans[:2], (end, end), *spans[2:], (7, 7)]
        assert token_spans(sentencepiece_tokenizer, ids, "She was") == around


@pytest.mark.parametrize("response", ["hi there", "hi", "hi!", "Hi!!", "", "hi\u200b!"])
@pytest.mark.parametrize("name", ["gpt2_tokenizer", "sentencepiece_tokenizer"])
def test_another_text_is_an_error(name, response, request):
    tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode("hi!!", add_special_tokens=False)
    with pytest.raises(MaskError) as raised:
        token_spans(tokenizer, ids, response)
    assert raised.value.reason == "mask_text_differs"


def test_no_tokens_write_no_text(gpt2_tokenizer):
    assert token_spans(gpt2_tokenizer, [], "") == []
    with pytest.raises(MaskError):
        token_spans(gpt2_tokenizer, [], "x")


# Ids at random are mostly broken UTF-8: whatever text they decode to must be covered exactly.
@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 50256) | st.integers(0, 255), max_size=20))
def test_any_ids_of_a_byte_level_tokenizer(gpt2_tokenizer, ids):
    response = response_text(gpt2_tokenizer, ids)
    assert_covers(token_spans(gpt2_tokenizer, ids, response), response)


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, len(sentencepiece()) - 1), max_size=20))
def test_any_ids_of_a_sentencepiece_tokenizer(sentencepiece_tokenizer, ids):
    response = response_text(sentencepiece_tokenizer, ids)
    assert_covers(token_spans(sentencepiece_tokenizer, ids, response), response)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30).filter(lambda t: not any("\ud800" <= c <= "\udfff" for c in t)))
def test_any_text_through_byte_level(gpt2_tokenizer, text):
    ids = gpt2_tokenizer.encode(text)
    if response_text(gpt2_tokenizer, ids) == text:  # unless it spells a special token
        assert_covers(token_spans(gpt2_tokenizer, ids, text), text)
