"""Pairs of a thinking model: its reasoning is carried along, and weighs nothing."""

import asyncio
import copy

import models
import pyarrow as pa
import pytest
from tokenizers import AddedToken

from maskdpo_ray.config import PreferenceConfig
from maskdpo_ray.engine.chat import open_tokenizer
from maskdpo_ray.evaluation.sentence_score import sentence_score
from maskdpo_ray.preference.pairs import build_pairs
from maskdpo_ray.preference.select import NoPair, why_left_out
from maskdpo_ray.preference.weighted_format import to_weighted
from maskdpo_ray.records import CANDIDATE, PAIR_SCHEMA
from maskdpo_ray.report.write import with_spans
from maskdpo_ray.sampling.counts import count_answers
from maskdpo_ray.sampling.given import GivenCandidates

THOUGHT = "<think>\nShe was born in 1901. Was she?\n</think>\n\n"


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = copy.deepcopy(open_tokenizer(models.tiny_llama()))
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
    tokenizer.chat_template += "{# the model may <think> and </think> #}"
    return tokenizer


def row_of(tokenizer, *answers):
    """Given answers of (text, sentences of (text, verdict)), their ids filled in."""
    candidates = []
    for text, sentences in answers:
        spans = []
        for sentence, verdict in sentences:
            start = text.index(sentence)
            label = {"start": start, "end": start + len(sentence), "verdict": verdict, "detail": ""}
            spans.append(label)
        candidates.append({"response": text, "sentences": spans})
    row = {"id": "q", "topic": "t", "question": "?", "document": None, "language": "en"}
    given = GivenCandidates(tokenizer)
    return asyncio.run(given([{**row, "candidates": candidates}]))[0]


@pytest.fixture
def row(tokenizer):
    return row_of(
        tokenizer,
        (THOUGHT + "She was a baker. ", [("She was a baker. ", "ok")]),
        (THOUGHT + "She was a cook.", [("She was a cook.", "contradictory")]),
    )


def learnt(tokenizer, side):
    pairs = zip(side["token_ids"], side["weights"], strict=True)
    return tokenizer.decode([i for i, weight in pairs if weight], skip_special_tokens=True)


def test_a_given_answer_is_its_reasoning_and_its_response(row):
    first = row["candidates"][0]
    assert (first["reasoning"], first["response"]) == (THOUGHT, "She was a baker. ")
    assert [(s["start"], s["end"]) for s in first["sentences"]] == [(0, 17)]
    stored = pa.array([first], type=CANDIDATE).to_pylist()[0]
    assert stored["reasoning"] == THOUGHT


def test_reasoning_weighs_nothing_unless_it_is_to_be_kept(tokenizer, row):
    mask, keep = (
        build_pairs(row, tokenizer, row["prompt_ids"], PreferenceConfig(reasoning=which))[0]
        for which in ("mask", "keep")
    )
    for name, answer in (("chosen", "She was a baker. "), ("rejected", "She was a cook.")):
        assert learnt(tokenizer, mask[name]) == answer
        assert learnt(tokenizer, keep[name]) == THOUGHT + answer
        assert mask[name]["token_ids"] == keep[name]["token_ids"]
        assert mask[name]["weights"][-1] == 1  # the end of turn, as ever
        assert mask[name]["reasoning"] == THOUGHT and mask[name]["response"] == answer
    assert mask["digest"] == keep["digest"]
    pa.Table.from_pylist([mask], PAIR_SCHEMA)


def test_the_same_answer_after_another_thought_is_no_pair(tokenizer):
    same = [("She was a baker.", "ok")]
    row = row_of(
        tokenizer,
        (THOUGHT + "She was a baker.", same),
        ("<think>No.</think>She was a baker.", [("She was a baker.", "contradictory")]),
    )
    with pytest.raises(NoPair) as caught:
        build_pairs(row, tokenizer, row["prompt_ids"], PreferenceConfig())
    assert caught.value.reason == "identical_text"


def test_an_answer_that_never_left_its_reasoning_is_counted_so(tokenizer, row):
    never = {**row["candidates"][0], "response": "", "sentences": [], "decoding": "greedy"}
    candidates = [never, *row["candidates"]]
    assert why_left_out(never, PreferenceConfig()) == "unfinished_reasoning"
    rows = [{**row, "candidates": candidates}]
    tokens = sum(each["reasoning_tokens"] for each in candidates)
    thought = tokenizer.encode(THOUGHT, add_special_tokens=False)
    assert tokens == 3 * len(thought)
    assert count_answers(rows) == {
        "with reasoning": 3,
        "reasoning tokens": tokens,
        "unfinished reasoning": 1,
    }
    examined = [{**each, "decoding": "greedy"} for each in candidates]
    score = sentence_score([{**row, "candidates": examined}], "greedy")
    assert (score["unfinished_reasoning"], score["abstained"], score["unscored"]) == (1, 0, 1)


def test_a_pair_leaves_and_comes_back_with_its_reasoning(tokenizer, row):
    [pair] = build_pairs(row, tokenizer, row["prompt_ids"], PreferenceConfig())
    record = to_weighted(pair, [{"role": "user", "content": "?"}])
    assert record["chosen"][0]["content"] == THOUGHT + "She was a baker. "
    assert (
        tokenizer.decode(record["chosen_ids"], skip_special_tokens=True)
        == (record["chosen"][0]["content"])
    )


def test_the_report_shows_the_response_beside_its_reasoning(tokenizer, row):
    [pair] = build_pairs(row, tokenizer, row["prompt_ids"], PreferenceConfig())
    side = with_spans(pair, tokenizer)["chosen"]
    written = [side["response"][start:end] for start, end in side["token_spans"]]
    assert "".join(written) == "She was a baker. "
