"""The engine for real: a tiny Llama on CPU."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import models
import pytest

from maskdpo_ray.engine.chat import prompt_token_ids
from maskdpo_ray.engine.engine import Engine, start_engine
from maskdpo_ray.engine.refusal import RequestRefused
from maskdpo_ray.errors import UserError

SEEDS = [n << 16 for n in range(6)]


def sampled(seed: int, n: int = 4, max_tokens: int = 24):
    from vllm import SamplingParams

    return SamplingParams(
        n=n, seed=seed, temperature=0.8, top_k=40, max_tokens=max_tokens, detokenize=False
    )


def tokens(outputs) -> list[list[int]]:
    return [list(output.token_ids) for output in outputs]


async def each_alone(engine, prompts, params):
    return [tokens(await engine.generate(p, q)) for p, q in zip(prompts, params, strict=True)]


async def all_at_once(engine, prompts, params):
    jobs = (engine.generate(p, q) for p, q in zip(prompts, params, strict=True))
    return [tokens(outputs) for outputs in await asyncio.gather(*jobs)]


@pytest.fixture(scope="module")
def prompts(engine):
    texts = ("Where was she born? " * (1 + i) for i in range(len(SEEDS)))
    return [prompt_token_ids(engine.tokenizer, text) for text in texts]


def test_candidates_do_not_depend_on_the_batch_they_are_sampled_in(engine, prompts):
    params = [sampled(seed) for seed in SEEDS]
    alone = asyncio.run(each_alone(engine, prompts, params))
    together = asyncio.run(all_at_once(engine, prompts, params))
    backwards = asyncio.run(all_at_once(engine, prompts[::-1], params[::-1]))[::-1]
    assert alone == together == backwards
    assert len({tuple(ids) for group in alone for ids in group}) == 4 * len(SEEDS)


def test_a_candidate_is_sampled_again_alone_with_its_own_seed(engine, prompts):
    group = asyncio.run(all_at_once(engine, prompts[:1], [sampled(SEEDS[3])]))[0]
    singles = [sampled(SEEDS[3] + k, n=1) for k in range(4)]
    assert [one for [one] in asyncio.run(each_alone(engine, prompts[:1] * 4, singles))] == group


def test_concurrent_callers_share_the_batch(engine, prompts):
    before = engine.stats.steps
    params = [sampled(seed, n=1) for seed in SEEDS]
    asyncio.run(each_alone(engine, prompts, params))
    alone = engine.stats.steps - before
    asyncio.run(all_at_once(engine, prompts, params))
    together = engine.stats.steps - before - alone
    assert together < alone / 3


def test_event_loops_of_several_threads_are_served(engine, prompts):
    found = {}

    def call(i: int) -> None:
        found[i] = asyncio.run(all_at_once(engine, [prompts[i]], [sampled(SEEDS[i])]))[0]

    threads = [threading.Thread(target=call, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    params = [sampled(seed) for seed in SEEDS[:3]]
    expected = asyncio.run(each_alone(engine, prompts[:3], params))
    assert [found[i] for i in range(3)] == expected


def test_the_end_of_turn_token_is_kept(engine, prompts):
    from vllm import SamplingParams

    forced = SamplingParams(
        temperature=0, max_tokens=5, allowed_token_ids=[engine.tokenizer.eos_token_id]
    )
    output = asyncio.run(engine.generate(prompts[0], forced))[0]
    assert list(output.token_ids) == [engine.tokenizer.eos_token_id]
    assert output.finish_reason == "stop"


def test_a_refused_request_fails_alone(engine, prompts):
    too_long = [5] * engine.max_model_len

    async def both():
        return await asyncio.gather(
            engine.generate(too_long, sampled(0)),
            engine.generate(prompts[0], sampled(0)),
            engine.generate([10**6], sampled(0)),
            return_exceptions=True,
        )

    long, fine, unknown = asyncio.run(both())
    assert isinstance(long, RequestRefused) and str(engine.max_model_len) in str(long)
    assert isinstance(unknown, RequestRefused) and "out of vocabulary" in str(unknown)
    assert len(fine) == 4


def test_a_cancelled_caller_disturbs_nobody(engine, prompts):
    async def cancel_one():
        lost = asyncio.create_task(engine.generate(prompts[0], sampled(1)))
        kept = asyncio.create_task(engine.generate(prompts[1], sampled(SEEDS[1])))
        await asyncio.sleep(0.001)
        lost.cancel()
        return tokens(await kept)

    expected = asyncio.run(all_at_once(engine, prompts[1:2], [sampled(SEEDS[1])]))[0]
    assert asyncio.run(cancel_one()) == expected


def test_the_statistics_count_what_was_done(engine, prompts):
    before = vars(engine.stats).copy()
    outputs = asyncio.run(all_at_once(engine, prompts[:2], [sampled(s) for s in SEEDS[:2]]))
    counted = {key: value - before[key] for key, value in vars(engine.stats).items()}
    assert counted["requests"] == 2
    assert counted["prompt_tokens"] == len(prompts[0]) + len(prompts[1])
    assert counted["generated_tokens"] == sum(len(ids) for group in outputs for ids in group)
    # At least one step a token; at most one more for a request that arrives a step late.
    assert 24 <= counted["steps"] <= 26
    assert counted["busy_seconds"] > 0


def test_the_context_is_the_models(engine):
    assert engine.max_model_len == 512


def test_torch_keeps_its_functions(engine):
    import torch

    assert torch.set_num_threads.__module__ != "vllm.v1.worker.cpu_worker"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"max_modle_len": 64}, "did you mean 'max_model_len'"),
        ({"max_model_len": -7}, "did not start: .*max_model_len"),
        ({"max_model_len": 4096}, "did not start: .*max_model_len"),
        ({"dtype": "float32"}, "'dtype' is decided by"),
    ],
)
def test_wrong_engine_arguments_are_a_persons_to_mend(args, message):
    with pytest.raises(UserError, match=message) as caught:
        start_engine(models.tiny_llama(), args, **({} if "dtype" in args else {"dtype": "float32"}))
    assert "\n" not in str(caught.value)


def test_a_bad_path_is_one_line():
    with pytest.raises(UserError, match="no tokenizer at '/nowhere'") as caught:
        Engine("/nowhere")
    assert "\n" not in str(caught.value)


def test_cut_weights_say_so(tmp_path):
    weights = Path(models.build_tiny_llama(tmp_path)) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="did not start: .*incomplete"):
        Engine(str(tmp_path), dtype="float32", kv_cache_memory_bytes=2**26)


def test_more_memory_than_there_is_says_so():
    with pytest.raises(UserError, match="did not start: .*kv cache"):
        Engine(models.tiny_llama(), dtype="float32", kv_cache_memory_bytes=2**50)


LIFE_AND_DEATH = """
import asyncio, sys
from maskdpo_ray.engine.engine import Engine
from vllm import SamplingParams
from vllm.v1.engine.llm_engine import LLMEngine

def start():
    return Engine(sys.argv[1], dtype="float32", kv_cache_memory_bytes=2**26)

def ask(engine):
    return engine.generate([1, 2, 3], SamplingParams(max_tokens=4))

async def close_behind(engine):
    job = asyncio.create_task(ask(engine))
    await asyncio.sleep(0)
    engine.close()
    return await job

engine = start()
print(len(asyncio.run(close_behind(engine))), "answer after the close")
try:
    asyncio.run(ask(engine))
except RuntimeError as error:
    print(error)

def broken_step(self):
    raise RuntimeError("the device fell off")

engine = start()
print("started again", flush=True)
LLMEngine.step = broken_step
asyncio.run(ask(engine))
print("still alive")
"""


def test_a_closed_engine_finishes_first_and_a_dead_one_ends_its_process():
    run = subprocess.run(
        [sys.executable, "-c", LIFE_AND_DEATH, models.tiny_llama()],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert run.returncode == 1
    assert "the device fell off" in run.stderr
    # Nothing of the engine's own on standard output, and nothing after the engine's death.
    assert run.stdout.splitlines() == [
        "1 answer after the close",
        "this engine is closed",
        "started again",
    ]
