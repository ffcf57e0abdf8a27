"""One family: a tiny random base, trained by the real worker and exported, held against what
Transformers says of it. Anything that is not what it has to be is ``Different``."""

import asyncio
import json
import math
import os
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from byte_bpe import train_byte_bpe
from families.processes import Different, brief
from tiny_models import tiny_model, write_internlm2

CLOSE = 1e-5  # of log-probabilities, fp32
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
GENERATION = {"temperature": 0.7, "top_p": 0.9}  # without do_sample, as some published ones
PROCESSOR = {"image_processor_type": "SomeImageProcessor", "size": 14}
INTERNLM2 = "internlm2"  # of the paper; not of Transformers


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
    job = TrainingJob(model_config, settings, 0, lambda: data, lambda: references, Folder(str(out)))
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


def one_worker_trains(base: Path, export: Path) -> None:
    """Three steps of a base, and its export in a folder."""
    from maskdpo_ray.config import ModelConfig, TrainingConfig
    from maskdpo_ray.training.reference import ReferenceProcessor

    model_config = ModelConfig(path=str(base), dtype="float32")
    settings = TrainingConfig(learning_rate=1e-3, epochs=1, batch_size=2, zero_stage=0)
    data = pairs()
    references = asyncio.run(ReferenceProcessor(model_config, settings)(data))
    _, _, written = train(base, model_config, settings, data, references)
    written.rename(export)
