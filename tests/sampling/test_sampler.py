"""Sampling for real: a tiny Llama on CPU."""

import asyncio
import copy
from types import SimpleNamespace

import models
import pyarrow as pa
import pytest

from maskdpo_ray.config import EvaluationConfig, ModelConfig, SamplingConfig
from maskdpo_ray.engine.chat import prompt_token_ids, response_text
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.records import QUESTION_SCHEMA
from maskdpo_ray.sampling.factory import build_sampler
from maskdpo_ray.sampling.sampler import Decoding, Sampler, decoding_of
from maskdpo_ray.sampling.seeds import question_seed

DECODING = Decoding(candidates=4, temperature=0.8, top_k=40, top_p=1.0, max_tokens=16)
WITH_GREEDY = Decoding(4, 0.8, 40, 1.0, 16, greedy=True)


def question(number: int, text: str = "Where was she born?") -> dict:
    return {
        "id": f"q{number}",
        "topic": "Ada",
        "question": f"{text} {number}",
        "document": None,
        "language": "en",
        "candidates": [],
    }


def sampler(engine, decoding=DECODING, **settings) -> Sampler:
    return Sampler(engine, decoding, model="tiny", seed=3, **settings)


def test_every_question_gets_its_candidates_in_order(engine):
    rows = [question(i) for i in range(5)]
    out = asyncio.run(sampler(engine)(rows))
    assert [row["id"] for row in out] == [row["id"] for row in rows]
    for row in out:
        assert [c["index"] for c in row["candidates"]] == [0, 1, 2, 3]
        assert [c["seed"] - question_seed(3, row["id"]) for c in row["candidates"]] == [0, 1, 2, 3]
        for candidate in row["candidates"]:
            assert candidate["response"] == response_text(engine.tokenizer, candidate["token_ids"])
            assert candidate["model"] == "tiny" and candidate["decoding"] == "sampled"
            assert candidate["finish_reason"] in ("stop", "length") and candidate["sentences"] == []
            ended = candidate["token_ids"][-1] == engine.tokenizer.eos_token_id
            assert ended == (candidate["finish_reason"] == "stop")
    assert all(row["candidates"] == [] for row in rows)  # what came in is left alone


def test_rows_survive_arrow(engine):
    out = asyncio.run(sampler(engine, WITH_GREEDY)([question(0)]))
    assert pa.Table.from_pylist(out, QUESTION_SCHEMA).to_pylist() == out


def test_candidates_are_the_same_in_any_batch(engine):
    rows = [question(i) for i in range(6)]
    whole = asyncio.run(sampler(engine)(rows))

    async def in_blocks():
        call = sampler(engine)
        return await asyncio.gather(*(call(rows[i : i + 2]) for i in (4, 2, 0)))

    parts = asyncio.run(in_blocks())
    assert parts[2] + parts[1] + parts[0] == whole


def test_more_candidates_keep_the_first_ones(engine):
    few = asyncio.run(sampler(engine)([question(0)]))[0]
    more = asyncio.run(sampler(engine, Decoding(6, 0.8, 40, 1.0, 16))([question(0)]))[0]
    assert more["candidates"][:4] == few["candidates"]


def test_a_recorded_seed_samples_its_candidate_again(engine):
    from vllm import SamplingParams

    row = asyncio.run(sampler(engine)([question(1)]))[0]
    candidate = row["candidates"][2]
    params = SamplingParams(seed=candidate["seed"], temperature=0.8, top_k=40, max_tokens=16)
    prompt = prompt_token_ids(engine.tokenizer, row["question"])
    [output] = asyncio.run(engine.generate(prompt, params))
    assert list(output.token_ids) == candidate["token_ids"]


def test_the_greedy_candidate_comes_first_and_changes_no_other(engine):
    plain = asyncio.run(sampler(engine)([question(0)]))[0]["candidates"]
    both = asyncio.run(sampler(engine, WITH_GREEDY)([question(0)]))[0]["candidates"]
    assert [c["decoding"] for c in both] == ["greedy"] + 4 * ["sampled"]
    assert [c["index"] for c in both] == [0, 1, 2, 3, 4]
    assert [c["token_ids"] for c in both[1:]] == [c["token_ids"] for c in plain]
    assert [c["seed"] for c in both] == [0, *(c["seed"] for c in plain)]


def test_greedy_is_the_most_likely_token_of_the_model_itself(engine):
    import torch
    from transformers import AutoModelForCausalLM

    row = asyncio.run(sampler(engine, WITH_GREEDY)([question(0)]))[0]
    prompt = prompt_token_ids(engine.tokenizer, row["question"])
    model = AutoModelForCausalLM.from_pretrained(models.tiny_llama(), dtype=torch.float32)
    response = row["candidates"][0]["token_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == response


def test_the_ids_that_were_sampled_from_stay_with_the_row(engine):
    row = asyncio.run(sampler(engine, system_prompt="Be brief.")([question(0)]))[0]
    asked = {"system_prompt": "Be brief."}
    assert row["prompt_ids"] == prompt_token_ids(engine.tokenizer, row["question"], **asked)


def test_a_turn_ends_where_the_template_ends_it(engine):
    """Its end of turn is not the end of sequence that the engine knows."""
    tokenizer = copy.deepcopy(engine.tokenizer)
    tokenizer.chat_template = models.CHAT_TEMPLATE.replace("<|end|>", "\n<|pad|>\n")
    other = SimpleNamespace(
        tokenizer=tokenizer, generate=engine.generate, max_model_len=engine.max_model_len
    )
    hot = Decoding(candidates=64, temperature=2.0, top_k=0, top_p=1.0, max_tokens=32)
    row = asyncio.run(sampler(other, hot)([question(0)]))[0]
    end = tokenizer.convert_tokens_to_ids("<|pad|>")
    ended = [c["token_ids"] for c in row["candidates"] if end in c["token_ids"]]
    assert ended and all(ids.index(end) == len(ids) - 1 for ids in ended)
    assert all(c["finish_reason"] == "stop" for c in row["candidates"] if end in c["token_ids"])


def test_a_prompt_that_is_too_long_leaves_with_numbers_and_remedy(engine):
    long = question(1, "Where was she born? " * 100)
    fine, rejected = asyncio.run(sampler(engine)([question(0), long]))
    assert len(fine["candidates"]) == 4
    assert isinstance(rejected, RowRejected) and rejected.reason == "prompt_too_long"
    needed = len(prompt_token_ids(engine.tokenizer, long["question"]))
    assert f"{needed} tokens" in rejected.detail and "context of 512" in rejected.detail
    assert "'q1'" in rejected.detail and "sampling.engine.max_model_len" in rejected.detail


def test_a_lone_surrogate_leaves_its_neighbours_alone(engine):
    bad, fine = asyncio.run(sampler(engine)([question(0, "\udc00"), question(1)]))
    assert isinstance(bad, RowRejected) and bad.reason == "not_unicode"
    assert len(fine["candidates"]) == 4


def test_the_system_prompt_is_part_of_the_prompt(engine):
    plain = asyncio.run(sampler(engine)([question(0)]))[0]
    told = asyncio.run(sampler(engine, system_prompt="Lie.")([question(0)]))[0]
    assert told["candidates"] != plain["candidates"]


def test_equal_candidates_are_refused():
    with pytest.raises(UserError, match="temperature 0 makes 4 equal candidates"):
        Decoding(4, 0, 40, 1.0, 16)


def test_decoding_comes_from_either_section():
    assert decoding_of(SamplingConfig(), 32) == Decoding(32, 0.8, 40, 1.0, 1024)
    evaluation = EvaluationConfig(samples=16, temperature=0.5, max_tokens=9)
    assert decoding_of(evaluation, 16, greedy=True) == Decoding(16, 0.5, 40, 1.0, 9, greedy=True)


def test_the_factory_refuses_what_cannot_work():
    model = ModelConfig(path=models.tiny_llama(), dtype="float32")
    with pytest.raises(UserError, match="'dtype' is decided by"):
        build_sampler(model, DECODING, 0, {"dtype": "half"})
    with pytest.raises(UserError, match="no tokenizer at"):
        build_sampler(ModelConfig(path="/nowhere"), DECODING, 0, {})
