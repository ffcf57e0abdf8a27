import json

import pytest
import real_tokenizers
from selections import build_pair

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.preference.public_format import (
    from_public,
    to_public,
)
from maskdpo_ray.questions import read_pairs
from maskdpo_ray.records import is_correct


def message(role, text):
    return [{"role": role, "content": text}]


def record(**changes):
    base = {
        "prompt": message("user", "Who was Ada?"),
        "chosen": message("assistant", "A poet's daughter.  She wrote."),
        "chosen_item": {
            "sents": ["A poet's daughter.", "She wrote."],
            "type": ["no_hallucination", "hallucination"],
        },
        "rejected": message("assistant", "A king."),
        "rejected_item": {"sents": ["A king. "], "type": ["hallucination"]},
    }
    return base | changes


def hallucinated(*sents, kind="hallucination"):
    return {"rejected_item": {"sents": list(sents), "type": [kind] * len(sents)}}


def test_a_record_becomes_a_question_with_two_candidates():
    row = from_public(record(), 4)
    assert row["id"] == "public-000004"
    assert row["topic"] == row["question"] == "Who was Ada?"
    chosen, rejected = row["candidates"]
    assert [(s["start"], s["end"], s["verdict"]) for s in chosen["sentences"]] == [
        (0, 20, "ok"), (20, 30, "unverifiable")
    ]  # fmt: skip
    assert (rejected["index"], rejected["response"]) == (1, "A king.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": []}, "'prompt'"),
        ({"prompt": message("system", "x")}, "'prompt'"),
        ({"prompt": message("user", "a") + message("assistant", "b")}, "'prompt'"),
        ({"chosen": "text"}, "'chosen'"),
        ({"rejected_item": {"sents": ["A king."], "type": []}}, "'rejected_item'"),
        ({"rejected_item": {"sents": [], "type": []}}, "'rejected_item'"),
        ({"rejected_item": None}, "'rejected_item'"),
        (hallucinated("A king.", kind="maybe"), "sentence 0 .*'maybe'"),
        (hallucinated("A king.", kind=["hallucination"]), "sentence 0 .*'hallucination'"),
        (hallucinated("A queen."), "sentence 0 .*queen"),
        (hallucinated("king."), "sentence 0"),
        (hallucinated(" "), "sentence 0"),
        (hallucinated(7), "sentence 0"),
        (hallucinated("A"), "belong to no sentence"),
        (hallucinated("A king.", "A king."), "sentence 1"),
    ],
)
def test_errors_name_line_and_sentence(changes, words):
    with pytest.raises(RowRejected, match=rf"^malformed_pair: line 3: .*{words}"):
        from_public(record(**changes), 2)


def test_pairs_survive_the_round_trip(tmp_path):
    tokenizer = real_tokenizers.sentencepiece_tokenizer()
    row = from_public(record(), 0)
    for candidate in row["candidates"]:
        candidate["token_ids"] = tokenizer.encode(candidate["response"], add_special_tokens=False)
    row["candidates"][0]["sentences"][0]["verdict"] = "nofact"
    row["candidates"][1]["sentences"][0]["verdict"] = "contradictory"
    pair = build_pair(row, tokenizer, [7], PreferenceConfig())

    path = tmp_path / "public.jsonl"
    path.write_text((json.dumps(to_public(pair)) + "\n") * 2)
    first, second = (row for _, row in read_pairs(path))
    assert (first["id"], second["id"]) == ("public-000000", "public-000001")
    for read, side in zip(first["candidates"], (pair["chosen"], pair["rejected"]), strict=True):
        assert read["response"] == side["response"]
        assert [(s["start"], s["end"], is_correct(s["verdict"])) for s in read["sentences"]] == [
            (s["start"], s["end"], is_correct(s["verdict"])) for s in side["sentences"]
        ]
        read["token_ids"] = side["token_ids"]
    again = build_pair(first, tokenizer, [7], PreferenceConfig())
    assert to_public(again) == to_public(pair)
    assert again["chosen"]["weights"] == pair["chosen"]["weights"]


def test_a_pair_that_cannot_be_used_is_rejected_and_its_neighbours_read(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lone, empty = record(), record()
    lone["prompt"][0]["content"] = "What \ud800?"
    empty["prompt"][0]["content"] = " "
    shifted = record(**hallucinated("A queen."))
    given = (lone, empty, shifted, {"prompt": 1}, {}, record())
    path.write_text("".join(json.dumps(each) + "\n" for each in given))
    ids, found = zip(*read_pairs(path), strict=True)
    assert len(set(ids)) == 6
    *bad, good = found
    malformed = ["malformed_pair"] * 3
    assert [row.reason for row in bad] == ["not_unicode", "empty_question", *malformed]
    assert "pairs.jsonl line 3: sentence 0" in bad[2].detail
    assert good["candidates"] == from_public(record(), 5)["candidates"]


def test_a_file_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(record()).encode() + b'\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        list(read_pairs(path))


@pytest.mark.parametrize("line", ["{", "[]"])
def test_errors_name_the_file_too(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(UserError, match=r"x\.jsonl line 2"):
        list(read_pairs(path))
