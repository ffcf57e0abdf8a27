import asyncio
import copy

import models
import pytest

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.engine.chat import end_of_turn_id, response_text
from maskdpo_ray.errors import RowRejected
from maskdpo_ray.sampling.factory import build_given
from maskdpo_ray.sampling.given import GivenCandidates


@pytest.fixture(scope="module")
def given():
    return build_given(ModelConfig(path=models.tiny_llama()))


@pytest.fixture(scope="module")
def tokenizer(given):
    return given._tokenizer


def row(*responses: str) -> dict:
    candidates = [{"response": text, "model": "human", "sentences": []} for text in responses]
    return {"id": "q0", "question": "?", "language": "en", "candidates": candidates}


def fill(given, *responses: str):
    return asyncio.run(given([row(*responses)]))[0]


def test_a_given_answer_looks_like_a_sampled_one(given, tokenizer):
    texts = ("She was born in 1901.", "  她出生于伦敦。\n\nAnd so on…  ", "")
    for text, candidate in zip(texts, fill(given, *texts)["candidates"], strict=True):
        assert candidate["response"] == text == response_text(tokenizer, candidate["token_ids"])
        assert candidate["token_ids"][-1] == end_of_turn_id(tokenizer)
        assert candidate["finish_reason"] == candidate["decoding"] == "input"
        assert candidate["seed"] == 0 and candidate["model"] == "human"


def test_a_text_that_does_not_come_back_keeps_its_place_without_ids(given):
    out = fill(given, "One.", "She said <|end|> twice.", "Three.")
    assert [bool(c["token_ids"]) for c in out["candidates"]] == [True, False, True]
    assert [c["index"] for c in out["candidates"]] == [0, 1, 2]
    assert out["candidates"][1]["response"] == "She said <|end|> twice."


@pytest.mark.parametrize("text", [" Ada was.", "  Ada", " ", "\n Ada", "Ada ", "   她"])
def test_an_answer_that_begins_with_a_space_keeps_it(text, sentencepiece_tokenizer):
    tokenizer = copy.deepcopy(sentencepiece_tokenizer)
    tokenizer.chat_template = models.CHAT_TEMPLATE
    candidate = GivenCandidates(tokenizer).candidate(0, {"response": text})
    assert candidate["token_ids"][-1] == sentencepiece_tokenizer.eos_token_id
    assert response_text(sentencepiece_tokenizer, candidate["token_ids"]) == text


def test_labels_of_an_unusable_candidate_go_with_its_ids(given):
    given_row = row("One.", "<|end|>", "Three.")
    for candidate in given_row["candidates"]:
        candidate["sentences"] = [{"start": 0, "end": 4, "verdict": "ok", "detail": ""}]
    out = asyncio.run(given([given_row]))[0]
    assert [len(c["sentences"]) for c in out["candidates"]] == [1, 0, 1]


@pytest.mark.parametrize("responses", [(), ("One.",), ("One.", "<|end|>")])
def test_fewer_than_two_usable_candidates_reject_the_row(given, responses):
    rejected = fill(given, *responses)
    assert isinstance(rejected, RowRejected) and rejected.reason == "too_few_candidates"
    assert "'q0'" in rejected.detail and f"of {len(responses)} candidates" in rejected.detail


def test_a_lone_surrogate_rejects_the_row(given):
    rejected = fill(given, "One.", "Two.", "caf\ud83d")
    assert isinstance(rejected, RowRejected) and rejected.reason == "not_unicode"
    assert "candidate 2 of question 'q0'" in rejected.detail


def test_token_ids_in_the_row_are_the_truth(given, tokenizer):
    # Another segmentation of the same text: one token a byte.
    spelled = [tokenizer.convert_tokens_to_ids(char) for char in "born"]
    assert spelled != tokenizer.encode("born", add_special_tokens=False)
    kept = given.candidate(0, {"response": "born", "token_ids": spelled})
    assert kept["token_ids"] == spelled
    assert given.candidate(0, {"response": "bore", "token_ids": spelled})["token_ids"] == []


def test_real_answers_come_back(given, biographies):
    for line in biographies[:40]:
        out = fill(given, *(c["response"] for c in line["candidates"]))
        assert all(c["token_ids"] for c in out["candidates"])
