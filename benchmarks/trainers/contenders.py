"""Who is compared, and one process of each."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from trainers.setting import Setting

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
TRL = ("trl==1.16.0", "datasets==5.2.0", "multiprocess==0.70.19", "xxhash==4.1.0")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "maskdpo-ray"


@dataclass(frozen=True)
class Contender:
    """A trainer with its settings; ``kind`` says which are compared as one."""

    name: str
    script: str
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = ""

    def but(self, **options: Any) -> "Contender":
        """The same with further options."""
        options = {**self.options, **options}
        return replace(self, name=self.name + _said(options, self.options), options=options)


def ours(micro_batch_tokens: int, **options: Any) -> Contender:
    zero = {"zero_stage": 0, "micro_batch_tokens": micro_batch_tokens, **options}
    return Contender(f"ours, {micro_batch_tokens:,} tokens a pass{_said(options)}", "ours", zero)


def unmasked(micro_batch_tokens: int, **options: Any) -> Contender:
    """Ours with a weight of one for every token: TRL's own loss, which has no mask."""
    return replace(ours(micro_batch_tokens, mask="none", **options), kind="unmasked")


def trl(pairs: int, **options: Any) -> Contender:
    best = {"precompute_ref_log_probs": True, "gradient_checkpointing": False, **options}
    name = f"TRL, {pairs} pairs a pass{_said(options)}"
    return Contender(name, "trl_dpo", {"pairs": pairs, **best})


def _said(options: dict[str, Any], known: Collection[str] = ()) -> str:
    return "".join(
        f", {name.replace('_', ' ')}" if value is True else f", {name.replace('_', ' ')} {value}"
        for name, value in options.items()
        if name not in known
    )


TRL_DEFAULT = Contender("TRL, its defaults", "trl_dpo", {"pairs": 8})


def released(pairs: int) -> Contender:
    return Contender(f"released method, {pairs} pairs a pass", "released", {"pairs": pairs})


def for_gpu(tokens: int, installed: set[str]) -> list[Contender]:
    """Settings among which either side may find its best, with the kernels that are installed.

    The likeliest come first: of a run that is stopped they are what is left.

    Args:
        tokens: of the largest pass of ours. Without recomputing, a token costs about 0.2 MB in each
            8B-shaped layer: where the largest do not fit, the smaller may.
        installed: ``flash_attn``, ``liger_kernel``, or both.
    """
    mine, theirs = ours(tokens, zero_stage=1), trl(8)
    first = [mine, theirs, trl(16), unmasked(tokens, zero_stage=1)]
    recomputing = {"gradient_checkpointing": True}
    more = [mine.but(**recomputing), trl(8, **recomputing), trl(4), ours(tokens // 2, zero_stage=1)]
    kernels: dict[str, Any] = {}
    if "liger_kernel" in installed:
        kernels["use_liger_kernel"] = True
    if "flash_attn" in installed:
        kernels["attention"] = "flash_attention_2"
    first, more = ([each.but(**kernels) for each in group] for group in (first, more))
    plain = [mine, theirs] if kernels else []
    return [*first, released(2), *more, TRL_DEFAULT, *plain]


@cache
def trl_python() -> str:
    """Python of an environment with TRL over the packages of this one."""
    folder = CACHE / f"{TRL[0].replace('==', '-')}-{sys.implementation.cache_tag}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=False)
        packages = next(folder.glob("lib/python*/site-packages"))
        below = sysconfig.get_path("purelib")
        (packages / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps"]
        subprocess.run([*pip, *TRL], check=True)
        (folder / "complete").touch()
    return str(python)


def run(contender: Contender, setting: Setting) -> dict[str, Any]:
    """One process; its figures, or ``{"failed": reason}``."""
    task = {
        "model": str(setting.model),
        "rows": setting.rows,
        "batch_size": len(setting.rows),  # every step sees all pairs: all trainers the same ones
        "steps": setting.steps,
        "learning_rate": 1e-6,
        "device": setting.device,
        "dtype": setting.dtype,
        "options": contender.options,
    }
    python = trl_python() if contender.script == "trl_dpo" else sys.executable
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        script = HERE / f"{contender.script}.py"
        done = subprocess.run(
            [python, script, file.name],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"failed": last[:300]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _outcome(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return figures["failed"]
    memory = (figures["peak_bytes"] - figures["loaded_bytes"]) / 1e6
    return f"{median(figures['seconds'][1:]):.3f} s a step, {memory:,.0f} MB over the policy"


def measure(contenders: list[Contender], setting: Setting, rounds: int) -> list[dict[str, Any]]:
    """Rounds over all contenders, so that a disturbance meets each of them; medians over steps."""
    runs: list[list[dict[str, Any]]] = [[] for _ in contenders]
    for _ in range(rounds):
        for place, contender in enumerate(contenders):
            print(f"  {contender.name} ... ", end="", file=sys.stderr, flush=True)
            figures = run(contender, setting)
            print(_outcome(figures), file=sys.stderr, flush=True)
            runs[place].append(figures)
    results = []
    for contender, repeated in zip(contenders, runs, strict=True):
        kind = contender.kind or contender.script
        row: dict[str, Any] = {"name": contender.name, "kind": kind}
        failed = [figures["failed"] for figures in repeated if "failed" in figures]
        if failed:
            results.append({**row, "failed": failed[0]})
            continue
        pairs = len(setting.rows)
        # The first step warms caches and makes the optimizer's state.
        row["pairs_per_second"] = pairs / median(s for r in repeated for s in r["seconds"][1:])
        row["pairs_per_cpu_second"] = pairs / median(
            s for r in repeated for s in r["cpu_seconds"][1:]
        )
        row["peak_memory"] = max(r["peak_bytes"] - r["loaded_bytes"] for r in repeated)
        row["peak_rss"] = max(r["peak_bytes"] for r in repeated)
        row["preparation_seconds"] = median(r["preparation_seconds"] for r in repeated)
        row["losses"] = repeated[0]["losses"]
        results.append(row)
    return results
