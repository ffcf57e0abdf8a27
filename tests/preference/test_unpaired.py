import numpy as np
import pytest
import real_tokenizers
from test_select import learnt, question

from maskdpo_ray.config import PreferenceConfig, TrainingConfig
from maskdpo_ray.preference.select import NoPair
from maskdpo_ray.preference.unpaired import build_units
from maskdpo_ray.training.batches import collate, training_pairs

ALL = PreferenceConfig(pairs="all_candidates")


@pytest.fixture
def tokenizer():
    return real_tokenizers.sentencepiece_tokenizer()


def correct(tokenizer, side):
    return learnt(tokenizer, {**side, "weights": side["correct"]})


def test_every_usable_candidate_is_in_one_row(tokenizer):
    row = question(tokenizer, "ou", "oe", "oo", "uu", "n")
    units = build_units(row, tokenizer, [7, 8], ALL)
    assert [unit["id"] for unit in units] == ["q#1", "q#2"]
    assert {unit["question_id"] for unit in units} == {"q"}
    sides = [unit[side] for unit in units for side in ("chosen", "rejected")]
    assert [side["index"] for side in sides] == [0, 2, 3, 4]
    assert [learnt(tokenizer, side) for side in sides] == [
        ["A0.", "A1."],
        ["C0.", "C1."],
        ["D0.", "D1."],
        ["E0."],
    ]
    assert [correct(tokenizer, side) for side in sides] == [["A0."], ["C0.", "C1."], [], ["E0."]]
    assert not any(side["weights"][-1] for side in sides), "the end of turn is in no sentence"
    assert len({unit["digest"] for unit in units}) == 2


def test_the_last_of_an_odd_number_stands_alone(tokenizer):
    (unit,) = build_units(question(tokenizer, "oo"), tokenizer, [7], ALL)
    assert unit["rejected"]["token_ids"] == [] and learnt(tokenizer, unit["chosen"])
    size = len(unit["chosen"]["token_ids"])
    reference = {unit["digest"]: {"chosen": [-1.0] * size, "rejected": []}}
    (pair,) = training_pairs([unit], reference, TrainingConfig(loss="fkto"))
    batch = collate([pair], packed=True)
    kept = np.flatnonzero(unit["chosen"]["weights"])
    assert batch.targets.tolist() == [unit["chosen"]["token_ids"][n] for n in kept]
    assert batch.correct.tolist() == [1.0] * len(kept)


def test_what_counts_is_what_the_mask_says(tokenizer):
    row = question(tokenizer, "onu", "nn", "uc")
    settings = PreferenceConfig(pairs="all_candidates", no_fact="mask", unverifiable="mask")
    (unit,) = build_units(row, tokenizer, [7], settings)
    assert (unit["chosen"]["index"], unit["rejected"]["index"]) == (0, 2)
    assert learnt(tokenizer, unit["chosen"]) == correct(tokenizer, unit["chosen"]) == ["A0."]
    assert learnt(tokenizer, unit["rejected"]) == ["C1."]


def test_a_sentence_beyond_the_cut_is_no_data(tokenizer):
    row = question(tokenizer, "ooooou", "nnnnnu")
    settings = PreferenceConfig(pairs="all_candidates", no_fact="mask", max_length=12)
    (unit,) = build_units(row, tokenizer, [7] * 5, settings)
    assert len(unit["chosen"]["token_ids"]) == 7 and not unit["rejected"]["token_ids"]


@pytest.mark.parametrize("answers", [("e",), ("",), ("nn", "n")])
def test_a_question_without_anything_to_learn_gives_no_row(tokenizer, answers):
    settings = PreferenceConfig(pairs="all_candidates", no_fact="mask")
    with pytest.raises(NoPair) as raised:
        build_units(question(tokenizer, *answers), tokenizer, [7], settings)
    assert raised.value.reason == "nothing_to_learn"
    with pytest.raises(NoPair) as raised:
        build_units(question(tokenizer, "o"), tokenizer, [7] * 2000, settings)
    assert raised.value.reason == "prompt_too_long"


def test_openings_are_left_out_of_incorrect_sentences_alone(tokenizer):
    row = question(tokenizer, "ou", "uo")
    row["candidates"][1]["response"] = row["candidates"][0]["response"]
    row["candidates"][1]["token_ids"] = row["candidates"][0]["token_ids"]
    settings = PreferenceConfig(pairs="all_candidates", shared_openings="mask")
    (unit,) = build_units(row, tokenizer, [7], settings)
    assert learnt(tokenizer, unit["chosen"]) == ["A0."]
    assert learnt(tokenizer, unit["rejected"]) == ["A1."]
