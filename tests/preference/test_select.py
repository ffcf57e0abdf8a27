from fractions import Fraction
from statistics import median

import pytest
import real_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from selections import SELECTIONS

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.select import (
    NoPair,
    build_pair,
    ranking_of,
    score,
    select_pair,
    why_left_out,
)
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


def reason(*verdicts, **settings):
    with pytest.raises(NoPair) as raised:
        select_pair(candidates(*verdicts), PreferenceConfig(**settings))
    return raised.value.reason


def test_score_counts_nofact_as_correct():
    assert score(sentences("onuc")) == 0.5
    assert score(sentences("nn")) == 1.0
    for bad in ("", "oe"):
        with pytest.raises(ValueError):
            score(sentences(bad))


def test_best_and_worst():
    assert select_pair(candidates("ouu", "oou", "ou")) == (1, 0)


def test_ties_go_to_more_sentences_then_to_the_first():
    assert select_pair(candidates("uo", "o", "oo", "oo", "uuoo", "uuoo")) == (2, 4)


def test_candidates_with_errors_sentences_missing_or_tokens_missing_are_left_out():
    group = candidates("oooe", "", "ou", "uuu", "o")
    group.append(candidate("ooooo", 5, token_ids=()))
    assert select_pair(group) == (4, 3)
    ranking = ranking_of(group, PreferenceConfig())
    assert [why_left_out(each, ranking) for each in group] == [
        "error", "no_answer", None, None, None, "no_answer"
    ]  # fmt: skip


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


def expected_score(settings, right, wrong, sizes):
    """The definitions of docs/method.md, word for word, in fractions."""
    precision = Fraction(right, right + wrong)
    if settings["select"] == "precision":
        return precision
    if settings["select"] == "net":
        return right - Fraction(str(settings.get("net_lambda", 1))) * wrong
    recall = min(right / Fraction(settings.get("f1_k") or median(sizes)), 1)
    return 2 * precision * recall / (precision + recall) if right else Fraction(0)


@settings(max_examples=500)
@given(st.lists(st.text("onuce", max_size=6), max_size=8), SELECTIONS)
def test_selection_against_exact_fractions(verdicts, given):
    """The rules once more, over all pairs."""
    right = "o" + "n" * (given["no_fact"] != "ignore") + "u" * (given["unverifiable"] == "correct")
    wrong = "c" + "u" * (given["unverifiable"] == "incorrect")
    sizes = [len(v) for v in verdicts if v]
    usable = {
        n: counts
        for n, v in enumerate(verdicts)
        if "e" not in v and any(counts := (sum(x in right for x in v), sum(x in wrong for x in v)))
    }
    scores = {n: expected_score(given, *counts, sizes) for n, counts in usable.items()}
    pairs = [
        (scores[j] - scores[i], -usable[i][0], -usable[j][1], i, j)  # the smallest is taken
        for i in usable
        for j in usable
        if usable[i][0] and usable[j][1] and scores[i] > scores[j]
    ]
    if len(usable) < 2:
        assert reason(*verdicts, **given) == "too_few_candidates"
    elif len(set(scores.values())) == 1:
        assert reason(*verdicts, **given) == "equal_scores"
    elif not pairs:
        assert given["select"] != "precision", "there it follows from unequal scores"
        best = max(usable, key=lambda n: (scores[n], usable[n][0]))
        lacking = "no_incorrect_sentence" if usable[best][0] else "no_correct_sentence"
        assert reason(*verdicts, **given) == lacking
    else:
        found = select_pair(candidates(*verdicts), PreferenceConfig(**given))
        assert found == min(pairs)[3:]
        if given["select"] == "precision":  # as in the paper: the best and the worst of all
            assert scores[found.best] == max(scores.values())
            assert scores[found.worst] == min(scores.values())


def test_more_that_is_right_beats_a_short_answer_under_f1_and_net():
    group = candidates("o", "oooou", "uu")
    assert select_pair(group).best == 0
    assert select_pair(group, PreferenceConfig(select="f1@k", f1_k=4)).best == 1
    assert select_pair(group, PreferenceConfig(select="net")).best == 1


def test_k_is_the_median_number_of_sentences_of_those_with_an_answer():
    group = candidates("o", "oooo", "uuuuu", "", "e" * 9)
    assert ranking_of(group, PreferenceConfig(select="f1@k")).k == Fraction(9, 2)
    group[4]["token_ids"] = []
    assert ranking_of(group, PreferenceConfig(select="f1@k")).k == 4


@pytest.mark.parametrize("select", ["precision", "f1@k", "net"])
def test_a_word_said_fourteen_times_is_no_merit(select):
    """Sentences without a fact won a tie, for there were more of them."""
    group = candidates("n" * 14, "on", "ou")
    assert select_pair(group, PreferenceConfig(select=select)).best == 0
    ignored = PreferenceConfig(select=select, no_fact="ignore")
    assert select_pair(group, ignored) == (1, 2)
    ranking = ranking_of(group, ignored)
    assert why_left_out(group[0], ranking) == "no_checkable_sentence"
    # Nor do they decide between two that say the same otherwise.
    assert select_pair(candidates("on", "onnnn", "u", "un"), ignored) == (0, 2)


def test_a_tenth_is_a_tenth():
    """As floats 3 - 0.1 * 3 is less than 4 - 0.1 * 13, though both are 2.7."""
    group = candidates("ooo" + "u" * 3, "oooo" + "u" * 13, "u")
    assert select_pair(group, PreferenceConfig(select="net", net_lambda=0.1)).best == 1
    group = candidates("oooo" + "u" * 13, "ooo" + "u" * 3, "u")
    assert select_pair(group, PreferenceConfig(select="net", net_lambda=0.1)).best == 0


def test_what_the_paper_asks_besides_unequal_scores():
    assert reason("u", "uu", select="net") == "no_correct_sentence"
    assert reason("o", "oo", select="net") == "no_incorrect_sentence"
    assert reason("o", "oo", select="f1@k") == "no_incorrect_sentence"
    # The worst of all has nothing incorrect to learn from; another has.
    assert select_pair(candidates("o", "oooo", "oooou"), PreferenceConfig(select="net")) == (1, 2)
    assert reason("u", "ouuuu", select="net") == "no_correct_sentence"


def test_too_few_says_what_was_left_out():
    with pytest.raises(NoPair, match="left out: 1 error, 2 no_checkable_sentence"):
        select_pair(candidates("nn", "n", "e", "o"), PreferenceConfig(no_fact="ignore"))


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


def test_scores_of_a_pair_count_what_counts(tokenizer):
    row = question(tokenizer, "onu", "nuc")
    pair = build_pair(row, tokenizer, [7], PreferenceConfig(no_fact="ignore", unverifiable="mask"))
    assert (pair["chosen"]["score"], pair["rejected"]["score"]) == (1, 0)
    assert learnt(tokenizer, pair["chosen"]) == ["A0."]
    assert learnt(tokenizer, pair["rejected"]) == ["B2."]


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
