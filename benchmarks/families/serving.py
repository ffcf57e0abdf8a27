"""vLLM's greedy tokens on the export of a family, held against Transformers.

Three processes one after another, as vLLM changes classes of Transformers in the one that it runs
in: what trains and exports, what serves, and what compares.
"""

import asyncio
import re
from functools import partial
from pathlib import Path

from families.exactness import build, one_worker_trains, pairs, plain_model
from families.processes import Different, in_process, scratch_folder

TOKENS = 16  # of an answer


def serve(family: str) -> str:
    """``yes``, or what is different, or why the engine does not run it."""
    with scratch_folder() as folder:
        base, export = folder / "base", folder / "export"
        made = in_process(_export, family, base, export)
        if made["outcome"] != "exact":
            return made["outcome"]
        outcome = _outcome(export)
        if not outcome.startswith("different"):
            return "yes" if outcome == "exact" else outcome
        # Of the export, or of the engine?
        of_base = _outcome(base)
        if of_base.startswith("different"):
            return f"{outcome}; so it is of the base itself"
        return f"{outcome}; of the base: {of_base}"


def _outcome(model: Path) -> str:
    served = in_process(_answers, model, memory=None)
    if served["outcome"] != "exact":
        return explained(served["outcome"])
    return in_process(_compare, model, served["answers"])["outcome"]


def explained(outcome: str) -> str:
    """With the package that the engine lacked, where its log names one."""
    log = re.search(r"\(log: (\S+)\)", outcome)
    if log is None or not Path(log[1]).is_file():
        return outcome
    lacking = re.findall(r"No module named '(\w+)'", Path(log[1]).read_text(errors="replace"))
    return f"no: it needs {lacking[-1]}, which is not installed" if lacking else outcome


def _prompts() -> list[list[int]]:
    return [pair["prompt_ids"] for pair in pairs()[:3]]


def _export(family: str, base: Path, export: Path) -> dict:
    build(family, base, wide=True)
    one_worker_trains(base, export)
    for folder in (base, export):  # what a processor needs to be is not this sweep's
        (folder / "preprocessor_config.json").unlink(missing_ok=True)
    return {}


def _answers(model: Path) -> dict:
    """The engine's greedy tokens."""
    from vllm import SamplingParams

    from maskdpo_ray.engine.engine import Engine

    engine = Engine(
        str(model), dtype="float32", max_model_len=128, kv_cache_memory_bytes=2**26,
        max_num_seqs=4, enable_prefix_caching=False, trust_remote_code=True,
    )  # fmt: skip
    params = partial(SamplingParams, temperature=0, max_tokens=TOKENS, ignore_eos=True)

    async def answers():
        return await asyncio.gather(*(engine.generate(p, params()) for p in _prompts()))

    return {"answers": [list(outputs[0].token_ids) for outputs in asyncio.run(answers())]}


def _compare(model: Path, answers: list[list[int]]) -> dict:
    plain = plain_model(model)
    for prompt, tokens in zip(_prompts(), answers, strict=True):
        _agree(plain, prompt, tokens)
    return {}


def _agree(model, prompt: list[int], tokens: list[int]) -> None:
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
