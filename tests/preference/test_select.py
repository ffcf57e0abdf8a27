from fractions import Fraction

import pytest
import real_tokenizers
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.select import NoPair, build_pair, score, select_pair
from maskdpo_ray.preference.token_spans import MaskError

LETTERS = {"o": "ok", "n": "nofact", "c": "contradictory", "u": "unverifiable", "e": "error"}


def sentences(letters, width=4):
    return [
        {"start": width * n, "end": width * (n + 1), "verdict": LETTERS[x], "detail": ""}
        for n, x in enumerate(letters)
    ]


def candidate(letters, index=0, text=None, token_ids=(1,)):
    return {
        "index": index,
        "seed": 0,
        "model": "m",
        "response": f"answer {index}" if text is None else text,
        "token_ids": list(token_ids),
        "finish_reason": "stop",
        "decoding": "sampled",
        "sentences": sentences(letters),
    }


def candidates(*verdicts):
    return [candidate(letters, index) for index, letters in enumerate(verdicts)]


def reason(*verdicts):
    with pytest.raises(NoPair) as raised:
        select_pair(candidates(*verdicts))
    return raised.value.reason


def test_score_counts_nofact_as_correct():
    assert score(sentences("onuc")) == 0.5
    assert score(sentences("nn")) == 1.0
    for bad in ("", "oe"):
        with pytest.raises(ValueError):
            score(sentences(bad))


def test_best_and_worst():
    assert select_pair(candidates("ouu", "oou", "ou")) == (1, 0, 0)


def test_ties_go_to_more_sentences_then_to_the_first():
    assert select_pair(candidates("uo", "o", "oo", "oo", "uuoo", "uuoo")) == (2, 4, 0)


def test_candidates_with_errors_sentences_missing_or_tokens_missing_are_left_out():
    group = candidates("oooe", "", "ou", "uuu", "o")
    group.append(candidate("ooooo", 5, token_ids=()))
    assert select_pair(group) == (4, 3, 3)


def test_reasons():
    assert reason() == "too_few_candidates"
    assert reason("o", "e", "") == "too_few_candidates"
    assert reason("uu", "u") == "equal_scores"
    assert reason("oo", "on") == "equal_scores"
    assert reason("ou", "oouu") == "equal_scores"


@pytest.mark.parametrize("verdicts", [("ou", "ou"), ("oo", "ou")])
def test_identical_texts(verdicts):
    with pytest.raises(NoPair) as raised:
        select_pair([candidate(v, n, text="same") for n, v in enumerate(verdicts)])
    assert raised.value.reason == "identical_text"


def test_identical_texts_do_not_hide_equal_scores_of_others():
    group = [candidate("ou", 0, "same"), candidate("ou", 1, "same"), candidate("ou", 2, "other")]
    with pytest.raises(NoPair) as raised:
        select_pair(group)
    assert raised.value.reason == "equal_scores"


@given(st.lists(st.text("onuce", max_size=6), max_size=8))
def test_selection_against_exact_fractions(verdicts):
    """The rules once more, with fractions and full sorting."""
    usable = {
        n: (sum(x in "on" for x in v), sum(x in "cu" for x in v))
        for n, v in enumerate(verdicts)
        if v and "e" not in v
    }
    fraction = {n: Fraction(right, right + wrong) for n, (right, wrong) in usable.items()}
    if len(usable) < 2:
        assert reason(*verdicts) == "too_few_candidates"
    elif len(set(fraction.values())) == 1:
        assert reason(*verdicts) == "equal_scores"
    else:
        best = sorted(usable, key=lambda n: (-fraction[n], -usable[n][0], n))[0]
        worst = sorted(usable, key=lambda n: (fraction[n], -usable[n][1], n))[0]
        assert select_pair(candidates(*verdicts)) == (best, worst, len(verdicts) - len(usable))
        # What the paper asks besides unequal scores follows from them.
        assert usable[best][0] > 0 and usable[worst][1] > 0


# -- the whole pair -------------------------------------------------------------------------------


@pytest.fixture
def tokenizer():
    return real_tokenizers.sentencepiece_tokenizer()


def question(tokenizer, *answers):
    """A row whose answers are sentences ``Xxx. `` of four characters, given by their verdicts."""
    row = {"id": "q", "topic": "t", "question": "?", "document": None, "language": "en"}
    group = []
    for index, letters in enumerate(answers):
        text = "".join(f"{'ABCDEFGH'[index]}{n}. " for n in range(len(letters)))
        ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        group.append(candidate(letters, index, text, ids))
    return {**row, "candidates": group}


def learnt(tokenizer, side):
    kept = [i for i, w in zip(side["token_ids"], side["weights"], strict=True) if w]
    return tokenizer.decode(kept, skip_special_tokens=True).split()


def test_a_pair(tokenizer):
    row = question(tokenizer, "ou", "uon", "uuu")
    pair = build_pair(row, tokenizer, [7, 8], PreferenceConfig())
    assert (pair["id"], pair["topic"], pair["question"]) == ("q", "t", "?")
    assert pair["prompt_ids"] == [7, 8]
    assert (pair["chosen"]["index"], pair["rejected"]["index"]) == (1, 2)
    assert (pair["chosen"]["score"], pair["rejected"]["score"]) == (2 / 3, 0)
    assert learnt(tokenizer, pair["chosen"]) == ["B1.", "B2."]
    assert learnt(tokenizer, pair["rejected"]) == ["C0.", "C1.", "C2."]
    assert pair["chosen"]["token_ids"] == row["candidates"][1]["token_ids"]
    assert pair["chosen"]["weights"][-1] == pair["rejected"]["weights"][-1] == 1.0
    assert pair["weight"] == 1.0
    for side in (pair["chosen"], pair["rejected"]):
        assert side["owners"] == sorted(side["owners"][:-1]) + [-1]
        assert set(side["owners"]) == {-1, 0, 1, 2}


def test_the_correct_sentences_of_both_sides_are_known(tokenizer):
    """Weighed as on the chosen side, whichever it is; the end of turn is none of them."""
    row = question(tokenizer, "uuno", "ono")
    pair = build_pair(row, tokenizer, [7, 8], PreferenceConfig())
    masked = build_pair(row, tokenizer, [7, 8], PreferenceConfig(no_fact="mask"))
    for of, side, expected in (
        (pair, "chosen", ["B0.", "B1.", "B2."]),
        (pair, "rejected", ["A2.", "A3."]),
        (masked, "chosen", ["B0.", "B2."]),
        (masked, "rejected", ["A3."]),
    ):
        correct = {**of[side], "weights": of[side]["correct"]}
        assert learnt(tokenizer, correct) == expected
        assert of[side]["correct"][-1] == 0.0


def test_the_digest_names_token_ids_and_nothing_else(tokenizer):
    row = question(tokenizer, "ou", "uu")
    pair = build_pair(row, tokenizer, [7, 8], PreferenceConfig())
    other_mask = build_pair(row, tokenizer, [7, 8], PreferenceConfig(eos="mask"))
    other_prompt = build_pair(row, tokenizer, [7], PreferenceConfig())
    assert pair["chosen"]["weights"] != other_mask["chosen"]["weights"]
    assert pair["digest"] == other_mask["digest"] != other_prompt["digest"]


def test_prompt_and_response_are_cut_to_max_length(tokenizer):
    row = question(tokenizer, "ooooou", "uuuuuo")
    whole = build_pair(row, tokenizer, [7] * 5, PreferenceConfig())
    cut = build_pair(row, tokenizer, [7] * 5, PreferenceConfig(max_length=12))
    for side in ("chosen", "rejected"):
        assert cut[side]["token_ids"] == whole[side]["token_ids"][:7]
        assert cut[side]["weights"] == whole[side]["weights"][:7]
        assert cut[side]["owners"] == whole[side]["owners"][:7]
        assert cut[side]["correct"] == whole[side]["correct"][:7]
    assert cut["digest"] != whole["digest"]


def failure(row, tokenizer, prompt, **settings):
    with pytest.raises((NoPair, MaskError)) as raised:
        build_pair(row, tokenizer, prompt, PreferenceConfig(**settings))
    assert "question 'q'" in str(raised.value)
    return raised.value.reason


def test_a_side_without_a_token_to_learn_from_is_no_pair(tokenizer):
    prompt = [7] * 5
    # What each side would learn from lies beyond the cut.
    assert failure(question(tokenizer, "uoooo", "uuuuu"), tokenizer, prompt, max_length=8) == (
        "zero_weight_chosen"
    )
    assert failure(question(tokenizer, "ooooo", "ouuuu"), tokenizer, prompt, max_length=8) == (
        "zero_weight_rejected"
    )
    # The end of turn alone, though it has weight one, is nothing to learn facts from.
    assert failure(question(tokenizer, "nu", "uu"), tokenizer, prompt, no_fact="mask") == (
        "zero_weight_chosen"
    )


def test_a_prompt_that_fills_max_length_is_no_pair(tokenizer):
    row = question(tokenizer, "o", "u")
    assert failure(row, tokenizer, [7] * 8, max_length=8) == "prompt_too_long"


def test_ids_that_do_not_spell_the_response_are_no_pair(tokenizer):
    row = question(tokenizer, "o", "u")
    row["candidates"][1]["token_ids"].pop(1)
    assert failure(row, tokenizer, [7]) == "mask_text_differs"


def test_sentences_that_do_not_tile_are_no_pair(tokenizer):
    row = question(tokenizer, "ou", "uu")
    row["candidates"][0]["sentences"].pop()
    assert failure(row, tokenizer, [7]) == "mask_spans_do_not_tile"
