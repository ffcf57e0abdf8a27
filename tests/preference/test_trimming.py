import pytest
import real_tokenizers
from pydantic import ValidationError
from selections import build_pair
from test_select import question

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.preference.token_spans import token_spans

ALIGNED = ("token_ids", "weights", "owners", "correct")


@pytest.fixture
def tokenizer():
    return real_tokenizers.sentencepiece_tokenizer()


def pairs(row, tokenizer, **settings):
    """Whole and trimmed."""
    return [
        build_pair(row, tokenizer, [7], PreferenceConfig(trim_chosen=trim, **settings))
        for trim in (False, True)
    ]


@pytest.mark.parametrize(
    ("chosen", "kept", "settings"),
    [
        ("oocu", 2, {}),
        ("ouoc", 3, {}),
        ("onuu", 2, {}),
        ("ouo", 3, {}),
        ("oouc", 3, {"unverifiable": "mask"}),
        ("onc", 2, {"no_fact": "ignore"}),
    ],
)
def test_the_incorrect_sentences_at_the_end_go(tokenizer, chosen, kept, settings):
    """What counts neither way stays; an incorrect sentence in the middle stays, unlearnt."""
    row = question(tokenizer, chosen, "c" * 5)
    whole, trimmed = (pair["chosen"] for pair in pairs(row, tokenizer, **settings))
    sides = [pair["rejected"] for pair in pairs(row, tokenizer, **settings)]
    assert sides[0] == sides[1], "the rejected answer stays whole"
    assert len(trimmed["sentences"]) == kept
    assert trimmed["token_ids"][-1] == tokenizer.eos_token_id and trimmed["weights"][-1] == 1
    assert trimmed["token_ids"][:-1] == whole["token_ids"][: len(trimmed["token_ids"]) - 1]
    assert len({len(trimmed[name]) for name in ALIGNED}) == 1
    assert set(trimmed["owners"]) == {-1, *range(kept)}
    assert trimmed["score"] == whole["score"], "selection compared the whole answers"
    learnt = [sum(map(bool, side["weights"])) for side in (whole, trimmed)]
    assert learnt[0] == learnt[1], "the same tokens are learnt"
    # Text, sentences and ids say the same.
    assert trimmed["response"].rstrip() == " ".join(f"A{n}." for n in range(kept))
    assert trimmed["sentences"][-1]["end"] == len(trimmed["response"])
    spans = token_spans(tokenizer, trimmed["token_ids"], trimmed["response"])
    assert spans[-1] == (len(trimmed["response"]),) * 2


def test_an_answer_without_an_end_of_turn_gets_none(tokenizer):
    row = question(tokenizer, "ocu", "ccc")
    row["candidates"][0]["token_ids"].pop()
    side = pairs(row, tokenizer)[1]["chosen"]
    assert side["owners"][-1] == 0 and tokenizer.eos_token_id not in side["token_ids"]


def test_the_room_is_of_what_is_left(tokenizer):
    row = question(tokenizer, "occccc", "c" * 7)
    room = len(pairs(row, tokenizer)[1]["chosen"]["token_ids"]) + 1
    whole, trimmed = (pair["chosen"] for pair in pairs(row, tokenizer, max_length=max(room, 8)))
    assert whole["token_ids"][-1] != tokenizer.eos_token_id
    assert trimmed["token_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("other", [{"eos": "mask"}, {"pairs": "all_candidates"}])
def test_what_would_change_nothing_is_refused(other):
    with pytest.raises(ValidationError, match="trim_chosen"):
        PreferenceConfig(trim_chosen=True, **other)
