"""Engine arguments as people write them: refused or completed before the engine starts."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from maskdpo_ray.errors import UserError

# Arguments that another setting decides: accepting them here would let the two disagree.
DECIDED_ELSEWHERE = {
    "model": "the section's model",
    "dtype": "the section's dtype",
    "seed": "seed",
    "revision": "the section's revision",
    "trust_remote_code": "the section's trust_remote_code",
    "data_parallel_size": "resources.*.actors (one engine an actor)",
    "tokenizer_mode": "nothing: prompts are built with Transformers' tokenizer",
    "skip_tokenizer_init": "nothing: prompts need the tokenizer",
    "disable_log_stats": "nothing: the engine is measured from outside",
}

CPU_DEFAULTS: dict[str, Any] = {
    # Compiling costs about 25 s at each start and buys little on CPU.
    "enforce_eager": True,
    # Seeded sampling kills the engine when a prefill is split by the token budget (vLLM 0.32 on
    # CPU: "CPU Generator does not use offset"), so prefills are never split.
    "enable_chunked_prefill": False,
    # vLLM would reserve 92 % of the machine's memory. It writes zeros to all of it at each start.
    "kv_cache_memory_bytes": 2**30,
}


def refuse_decided_elsewhere(given: Mapping[str, Any]) -> None:
    """Raise ``UserError`` for an argument that another setting decides, naming that setting."""
    for name in given:
        if name in DECIDED_ELSEWHERE:
            raise UserError(f"engine argument {name!r} is decided by {DECIDED_ELSEWHERE[name]}")


def refuse_other_tokenizer(given: Mapping[str, Any]) -> None:
    """``refuse_decided_elsewhere`` of a model whose answers are learnt or measured: the engine must
    have the tokenizer that pairs, training and export have."""
    refuse_decided_elsewhere(given)
    for name in ("tokenizer", "tokenizer_revision"):
        if name in given:
            raise UserError(
                f"engine argument {name!r} would sample with another tokenizer than training has: "
                "put the right tokenizer's files into the model's folder, and remove it"
            )


def check_engine_args(given: Mapping[str, Any], valid: Collection[str]) -> None:
    """Refuse what vLLM's engine does not know or what is set elsewhere.

    Args:
        given: the ``engine`` mapping of a section of the configuration.
        valid: the fields of ``vllm.EngineArgs``.

    Raises:
        UserError: names the argument and the nearest valid one, or where to set it.
    """
    refuse_decided_elsewhere(given)
    for name in given:
        if name not in valid:
            near = difflib.get_close_matches(name, valid, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`vllm serve --help=all` lists them"
            raise UserError(f"vLLM's engine has no argument {name!r}: {hint}")


def parallel_size(given: Mapping[str, Any]) -> int:
    """Devices of one engine.

    Raises:
        UserError: a size that is no whole number.
    """
    size = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        value = given.get(name, 1)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"engine argument {name} must be a whole number, not {value!r}")
        size *= value
    return size


def complete_engine_args(given: Mapping[str, Any], *, cpu: bool) -> dict[str, Any]:
    """The arguments to start with: ours where ``given`` says nothing.

    Args:
        cpu: whether the engine will run on CPU.
    """
    defaults: dict[str, Any] = {
        # One process where one device does: no orphans, and a start of seconds.
        "distributed_executor_backend": "mp" if parallel_size(given) > 1 else "uni",
        "use_tqdm_on_load": False,
    }
    if cpu:
        defaults |= CPU_DEFAULTS
        if given.get("enable_chunked_prefill"):
            raise UserError(
                "engine argument enable_chunked_prefill=true: seeded sampling kills vLLM's CPU "
                "engine when a prefill is split; leave it out on CPU"
            )
    return {**defaults, **given}
