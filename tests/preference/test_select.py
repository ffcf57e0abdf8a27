from fractions import Fraction
from statistics import median

import pytest
import real_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from selections import SELECTIONS, best_and_worst, build_pair

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.pairs import build_pairs
from maskdpo_ray.preference.select import (
    NoPair,
    count_left_out,
    ranking_of,
    score,
    select_pairs,
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
        best_and_worst(candidates(*verdicts), PreferenceConfig(**settings))
    return raised.value.reason


def test_score_counts_nofact_as_correct():
    assert score(sentences("onuc")) == 0.5
    assert score(sentences("nn")) == 1.0
    for bad in ("", "oe"):
        with pytest.raises(ValueError):
            score(sentences(bad))


def test_best_and_worst():
    assert best_and_worst(candidates("ouu", "oou", "ou")) == (1, 0)


def test_ties_go_to_more_sentences_then_to_the_first():
    assert best_and_worst(candidates("uo", "o", "oo", "oo", "uuoo", "uuoo")) == (2, 4)


def test_candidates_with_errors_sentences_missing_or_tokens_missing_are_left_out():
    group = candidates("oooe", "", "ou", "uuu", "o")
    group.append(candidate("ooooo", 5, token_ids=()))
    assert best_and_worst(group) == (4, 3)
    assert [why_left_out(each, PreferenceConfig()) for each in group] == [
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
        best_and_worst([candidate(v, n, text="same") for n, v in enumerate(verdicts)])
    assert raised.value.reason == "identical_text"


def test_identical_texts_do_not_hide_equal_scores_of_others():
    group = [candidate("ou", 0, "same"), candidate("ou", 1, "same"), candidate("ou", 2, "other")]
    with pytest.raises(NoPair) as raised:
        best_and_worst(group)
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


WINDOWS = st.none() | st.builds(
    lambda by, ratio: {"by": by, "ratio": ratio},
    st.sampled_from(["tokens", "sentences"]),
    st.sampled_from([1.0, 1.1, 1.5, 2.0]),
)
ANSWERS = st.lists(
    st.tuples(st.text("onuce", max_size=6), st.integers(1, 12), st.integers(0, 9)), max_size=8
)


@settings(max_examples=1000)
@given(ANSWERS, SELECTIONS, WINDOWS)
def test_selection_against_all_pairs_in_exact_fractions(answers, given, window):
    """The rules once more: all pairs, and the widest gap first."""
    group = [
        candidate(letters, n, f"text {text}", token_ids=range(tokens))
        for n, (letters, tokens, text) in enumerate(answers)
    ]
    verdicts = [letters for letters, _, _ in answers]
    right = "o" + "n" * (given["no_fact"] != "ignore") + "u" * (given["unverifiable"] == "correct")
    wrong = "c" + "u" * (given["unverifiable"] == "incorrect")
    sizes = [len(v) for v in verdicts if v]
    usable = {
        n: counts
        for n, v in enumerate(verdicts)
        if "e" not in v and any(counts := (sum(x in right for x in v), sum(x in wrong for x in v)))
    }
    scores = {n: expected_score(given, *counts, sizes) for n, counts in usable.items()}
    texts = {n: group[n]["response"] for n in usable}

    def near(i, j):
        lengths = [
            len(verdicts[n]) if window["by"] == "sentences" else answers[n][1] for n in (i, j)
        ]
        return max(lengths) <= Fraction(str(window["ratio"])) * min(lengths)

    def pairs(left):
        """The smallest is taken first."""
        return sorted(
            (scores[j] - scores[i], -usable[i][0], -usable[j][1], i, j)
            for i in left
            for j in left
            if usable[i][0] and usable[j][1] and scores[i] > scores[j]
        )

    expected, left = [], list(usable)
    while len(expected) < given["pairs_per_question"]:
        found = [pair[3:] for pair in pairs(left) if window is None or near(*pair[3:])]
        if not found or texts[found[0][0]] == texts[found[0][1]]:
            break
        expected.append(found[0])
        left = [n for n in left if texts[n] not in {texts[taken] for taken in found[0]}]

    chosen = PreferenceConfig(**given, length_window=window)
    if expected:
        selected = select_pairs(group, chosen)
        assert [pair[:2] for pair in selected] == expected
        assert [pair.gap for pair in selected] == [scores[i] - scores[j] for i, j in expected]
        assert sorted(selected, key=lambda pair: -pair.gap) == selected
        if given["select"] == "precision" and window is None:
            # As in the paper: the best and the worst of all.
            assert scores[selected[0].best] == max(scores.values())
            assert scores[selected[0].worst] == min(scores.values())
        return
    with pytest.raises(NoPair) as raised:
        select_pairs(group, chosen)
    if len(usable) < 2:
        reason = "too_few_candidates"
    elif len(set(texts.values())) == 1:
        reason = "identical_text"
    elif len(set(scores.values())) == 1:
        reason = "equal_scores"
    elif pairs(usable):
        reason = "identical_text" if found else "no_pair_in_window"
    else:
        assert given["select"] != "precision", "there it follows from unequal scores"
        best = max(usable, key=lambda n: (scores[n], usable[n][0]))
        reason = "no_incorrect_sentence" if usable[best][0] else "no_correct_sentence"
    assert raised.value.reason == reason


def test_more_that_is_right_beats_a_short_answer_under_f1_and_net():
    group = candidates("o", "oooou", "uu")
    assert best_and_worst(group)[0] == 0
    assert best_and_worst(group, PreferenceConfig(select="f1@k", f1_k=4))[0] == 1
    assert best_and_worst(group, PreferenceConfig(select="net"))[0] == 1


def test_k_is_the_median_number_of_sentences_of_those_with_an_answer():
    group = candidates("o", "oooo", "uuuuu", "", "e" * 9)
    assert ranking_of(group, PreferenceConfig(select="f1@k")).k == Fraction(9, 2)
    group[4]["token_ids"] = []
    assert ranking_of(group, PreferenceConfig(select="f1@k")).k == 4


@pytest.mark.parametrize("select", ["precision", "f1@k", "net"])
def test_a_word_said_fourteen_times_is_no_merit(select):
    """Sentences without a fact won a tie, for there were more of them."""
    group = candidates("n" * 14, "on", "ou")
    assert best_and_worst(group, PreferenceConfig(select=select))[0] == 0
    ignored = PreferenceConfig(select=select, no_fact="ignore")
    assert best_and_worst(group, ignored) == (1, 2)
    assert why_left_out(group[0], ignored) == "no_checkable_sentence"
    # Nor do they decide between two that say the same otherwise.
    assert best_and_worst(candidates("on", "onnnn", "u", "un"), ignored) == (0, 2)


def test_a_tenth_is_a_tenth():
    """As floats 3 - 0.1 * 3 is less than 4 - 0.1 * 13, though both are 2.7."""
    group = candidates("ooo" + "u" * 3, "oooo" + "u" * 13, "u")
    assert best_and_worst(group, PreferenceConfig(select="net", net_lambda=0.1))[0] == 1
    group = candidates("oooo" + "u" * 13, "ooo" + "u" * 3, "u")
    assert best_and_worst(group, PreferenceConfig(select="net", net_lambda=0.1))[0] == 0


def test_what_the_paper_asks_besides_unequal_scores():
    assert reason("u", "uu", select="net") == "no_correct_sentence"
    assert reason("o", "oo", select="net") == "no_incorrect_sentence"
    assert reason("o", "oo", select="f1@k") == "no_incorrect_sentence"
    # The worst of all has nothing incorrect to learn from; another has.
    assert best_and_worst(candidates("o", "oooo", "oooou"), PreferenceConfig(select="net")) == (
        1,
        2,
    )
    assert reason("u", "ouuuu", select="net") == "no_correct_sentence"


def test_a_window_pairs_answers_of_about_one_length():
    group = candidates("o", "ooou", "oouuu", "uuuuu", "ou")
    for n, tokens in enumerate((4, 20, 25, 40, 10)):
        group[n]["token_ids"] = [1] * tokens

    def within(**window):
        return best_and_worst(group, PreferenceConfig(length_window=window))

    assert best_and_worst(group) == (0, 3)
    assert within(by="sentences", ratio=1.25) == (1, 3)
    assert within(by="tokens", ratio=1.5) == (1, 2)
    assert within(by="tokens", ratio=2) == (1, 3), "twice as long is within twice"
    assert within(by="tokens", ratio=10) == (0, 3)
    assert reason("o", "uuu", length_window={"by": "sentences", "ratio": 2}) == "no_pair_in_window"


def test_several_pairs_are_of_different_answers_the_widest_gap_first():
    group = candidates("oo", "oo", "ou", "uu", "ouu", "oou")
    assert [pair[:2] for pair in select_pairs(group, PreferenceConfig(pairs_per_question=9))] == [
        (0, 3), (1, 4), (5, 2)
    ]  # fmt: skip
    group[1]["response"] = group[0]["response"]
    assert [pair[:2] for pair in select_pairs(group, PreferenceConfig(pairs_per_question=9))] == [
        (0, 3), (5, 4)
    ]  # fmt: skip
    assert len(select_pairs(group, PreferenceConfig(pairs_per_question=1))) == 1


def test_answers_that_say_the_same_again_and_again_can_be_left_out():
    group = candidates("oooo", "ou", "uu")
    group[0]["response"] = "Yes. " * 4
    for sentence in group[0]["sentences"]:
        sentence |= {"start": sentence["start"] * 5 // 4, "end": sentence["end"] * 5 // 4}
    for n in (1, 2):
        group[n]["response"] = f"A{n}. B{n}. "
        group[n]["token_ids"] = [n, n + 1]
    assert best_and_worst(group) == (0, 2)
    settings = PreferenceConfig(max_repetition=0.5)
    assert best_and_worst(group, settings) == (1, 2)
    assert count_left_out([{"candidates": group}], settings) == {"repetitive": 1}
    assert best_and_worst(group, PreferenceConfig(max_repetition=0.75)) == (0, 2), (
        "up to this share"
    )


@pytest.mark.parametrize("given", [{"unverifiable": "correct"}, {"unverifiable": "mask"}])
def test_without_a_contradiction_it_is_told_what_is_lacking(given):
    for select, verdicts in (("precision", ("ou", "oouu")), ("net", ("o", "oou"))):
        with pytest.raises(NoPair, match="set preference.unverifiable=incorrect"):
            select_pairs(candidates(*verdicts), PreferenceConfig(select=select, **given))
    with pytest.raises(NoPair) as raised:
        select_pairs(candidates("oc", "oocc"), PreferenceConfig(**given))
    assert "unverifiable" not in str(raised.value)


def test_too_few_says_what_was_left_out():
    with pytest.raises(NoPair, match="left out: 1 error, 2 no_checkable_sentence"):
        best_and_worst(candidates("nn", "n", "e", "o"), PreferenceConfig(no_fact="ignore"))


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


def test_several_pairs_of_a_question_have_names_of_their_own(tokenizer):
    row = question(tokenizer, "oo", "uu", "oou", "ouu", "on")
    pairs = build_pairs(row, tokenizer, [7], PreferenceConfig(pairs_per_question=2))
    assert [pair["id"] for pair in pairs] == ["q#1", "q#2"]
    assert {pair["question_id"] for pair in pairs} == {"q"}
    sides = [(pair["chosen"]["index"], pair["rejected"]["index"]) for pair in pairs]
    assert sides == [(0, 1), (4, 3)]
    assert [pair["weight"] for pair in pairs] == [1.0, 1.0]
    by_gap = PreferenceConfig(pairs_per_question=2, pair_weight="gap")
    assert [pair["weight"] for pair in build_pairs(row, tokenizer, [7], by_gap)] == [1.0, 2 / 3]
    (alone,) = build_pairs(row, tokenizer, [7], PreferenceConfig())
    assert (alone["id"], alone["question_id"], alone["dropped"]) == ("q", "q", [])
    assert alone["digest"] == pairs[0]["digest"]


def test_a_pair_that_cannot_be_built_leaves_the_others(tokenizer):
    row = question(tokenizer, "oo", "uu", "oou", "ouu", "on")
    settings = PreferenceConfig(pairs_per_question=2)
    row["candidates"][1]["token_ids"].pop(1)
    (pair,) = build_pairs(row, tokenizer, [7], settings)
    assert (pair["id"], pair["dropped"]) == ("q#2", ["mask_text_differs"])
    row["candidates"][3]["token_ids"].pop(1)
    with pytest.raises(MaskError, match="question 'q'") as raised:
        build_pairs(row, tokenizer, [7], settings)
    assert raised.value.reason == "mask_text_differs"


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
