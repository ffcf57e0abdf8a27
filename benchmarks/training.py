"""Masked DPO side by side with TRL's DPOTrainer and with the released code's method.

    python benchmarks/training.py --quick      # two vocabularies, a few steps each
    python benchmarks/training.py              # every setting of TRL worth trying, and more shapes
    python benchmarks/training.py --scaling    # how time and memory of ours grow
    python benchmarks/training.py --gpu        # 8B-shaped layers in bf16 on one card (--tiny: CPU)

Each trainer runs in a process of its own with the same random model, the same pairs, AdamW and one
global batch; only training steps are timed. Lengths and kept tokens are those of pairs made from
labelled biographies (``biography_lengths.json``: tokens of prompt, chosen, kept, rejected, kept).
TRL lives in an environment made on first use, on top of this one: same PyTorch and Transformers.

``peak_memory`` is what the resident set grows by over the loaded policy while training: gradients,
optimizer, activations, a reference model where one is kept. ``peak_rss`` is the whole process.
Both ratios are ours / theirs. The last line is one JSON object; its ratios are the least
favourable ones over the vocabularies, against TRL's fastest setting.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
TRL = ("trl==1.16.0", "datasets==5.2.0", "multiprocess==0.70.19", "xxhash==4.1.0")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "maskdpo-ray"

SMALL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "heads": 6}
DEEP = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 12, "heads": 9}
EIGHT_B = {"hidden_size": 4096, "intermediate_size": 14336, "heads": 32, "kv_heads": 8}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "heads": 2}
# Dense bf16, without sparsity, from the makers' data sheets.
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362}


@dataclass(frozen=True)
class Contender:
    name: str
    script: str
    options: dict[str, Any] = field(default_factory=dict)


def ours(micro_batch_tokens: int, name: str = "ours", **options: Any) -> Contender:
    zero = {"zero_stage": 0, "micro_batch_tokens": micro_batch_tokens, **options}
    return Contender(name, "ours", zero)


def trl(pairs: int, **options: Any) -> Contender:
    best = {"precompute_ref_log_probs": True, "gradient_checkpointing": False, **options}
    recompute = ", gradient checkpointing" if best["gradient_checkpointing"] else ""
    return Contender(f"TRL, {pairs} pairs a pass{recompute}", "trl_dpo", {"pairs": pairs, **best})


TRL_DEFAULT = Contender("TRL, its defaults", "trl_dpo", {"pairs": 8})


def released(pairs: int) -> Contender:
    return Contender(f"released method, {pairs} pairs a pass", "released", {"pairs": pairs})


# The setting: a model, the pairs of every step, a device.


def pick_rows(count: int, vocabulary: int) -> list[dict[str, Any]]:
    """Pairs spread evenly over all lengths of the biographies; random ids, kept tokens in front."""
    import numpy as np

    table = json.loads((HERE / "biography_lengths.json").read_text())
    table.sort(key=lambda row: row[1] + row[3])
    places = ((np.arange(count) + 0.5) * len(table) / count).astype(int)
    return [make_row(*table[place], seed=int(place), vocabulary=vocabulary) for place in places]


def make_row(
    prompt: int,
    chosen: int,
    kept: int,
    rejected: int,
    kept_rejected: int,
    seed: int,
    vocabulary: int,
) -> dict[str, Any]:
    """One pair. Kept tokens are spread over the answer, and its last token is kept, as an end of
    turn is: nothing can be cut off."""
    import numpy as np

    random = np.random.default_rng(seed)

    def weights(size: int, ones: int) -> list[float]:
        kept_ones = random.permutation(size - 1)[: ones - 1]
        values = np.zeros(size)
        values[[*kept_ones, size - 1]] = 1.0
        return values.tolist()

    sizes = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    ids = {name: random.integers(4, vocabulary, size).tolist() for name, size in sizes.items()}
    return {
        **ids,
        "chosen_weights": weights(chosen, kept),
        "rejected_weights": weights(rejected, kept_rejected),
    }


def write_model(folder: Path, shape: dict[str, int], vocabulary: int, dtype: str) -> int:
    """A random Llama with a tokenizer that nobody will ask for words; returns its parameters."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    shape = dict(shape)
    heads = shape.pop("heads")
    config = LlamaConfig(
        vocab_size=vocabulary,
        num_attention_heads=heads,
        num_key_value_heads=shape.pop("kv_heads", heads),
        max_position_embeddings=8192,
        tie_word_embeddings=shape.pop("tied", True),
        bos_token_id=1,
        eos_token_id=2,
        **shape,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return model.num_parameters()


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


# Running and measuring.


@dataclass(frozen=True)
class Setting:
    model: Path
    rows: list[dict[str, Any]]
    steps: int
    device: str = "cpu"
    dtype: str = "float32"


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
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
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
        script = HERE / "trainers" / f"{contender.script}.py"
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


def measure(contenders: list[Contender], setting: Setting, rounds: int) -> list[dict[str, Any]]:
    """Rounds over all contenders, so that a disturbance meets each of them; medians over steps."""
    runs: list[list[dict[str, Any]]] = [[] for _ in contenders]
    for _ in range(rounds):
        for place, contender in enumerate(contenders):
            print(f"  {contender.name} ...", file=sys.stderr, flush=True)
            runs[place].append(run(contender, setting))
    results = []
    for contender, repeated in zip(contenders, runs, strict=True):
        row: dict[str, Any] = {"name": contender.name, "script": contender.script}
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
        row["preparation_seconds"] = median(
            r["preparation_seconds"] + r.get("reference_seconds", 0.0) for r in repeated
        )
        row["losses"] = repeated[0]["losses"]
        results.append(row)
    return results


def ratios(results: list[dict[str, Any]]) -> dict[str, float]:
    """Ours against TRL at its fastest, and against the released method at its fastest."""
    done = [row for row in results if "failed" not in row]
    fastest = {}
    for row in done:
        best = fastest.get(row["script"])
        if best is None or row["pairs_per_second"] > best["pairs_per_second"]:
            fastest[row["script"]] = row
    mine = next(row for row in done if row["name"] == "ours")
    found = {}
    for script, ending in (("trl_dpo", ""), ("released", "_released")):
        if script not in fastest:
            continue
        other = fastest[script]
        for figure in ("pairs_per_second", "pairs_per_cpu_second", "peak_memory", "peak_rss"):
            found[f"{figure}_ratio{ending}"] = mine[figure] / other[figure]
    lean = [row["peak_memory"] for row in done if row["script"] == "trl_dpo"]
    if lean:
        leanest = min(r["peak_memory"] for r in done if r["script"] == "ours")
        found["leanest_memory_ratio"] = leanest / min(lean)
    return found


def worst(found: list[dict[str, float]]) -> dict[str, float]:
    """The least favourable of each ratio."""
    keys = [key for key in found[0] if all(key in each for each in found)]
    pick = {True: min, False: max}
    return {key: pick["second" in key]([each[key] for each in found]) for key in keys}


def show(title: str, results: list[dict[str, Any]], more: tuple[str, ...] = ()) -> None:
    print(f"\n{title}\n")
    print("| trainer | pairs/s | pairs/CPU s | over the policy, MB | process, MB | preparation, s |"
          + "".join(f" {name} |" for name in more))  # fmt: skip
    print("|---" * (6 + len(more)) + "|")
    for row in results:
        if "failed" in row:
            print(f"| {row['name']} | does not run: {row['failed']} |" + " |" * (4 + len(more)))
            continue
        print(
            f"| {row['name']} | {row['pairs_per_second']:.3f} | {row['pairs_per_cpu_second']:.3f} "
            f"| {row['peak_memory'] / 1e6:,.0f} | {row['peak_rss'] / 1e6:,.0f} "
            f"| {row['preparation_seconds']:.0f} |"
            + "".join(f" {row[name]:.3g} |" for name in more)
        )
    sys.stdout.flush()


# The comparisons.


def compare(shape: dict[str, int], vocabulary: int, contenders: list[Contender], pairs: int,
            steps: int, rounds: int) -> dict[str, float]:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_model(Path(folder), shape, vocabulary, "float32")
        setting = Setting(Path(folder), pick_rows(pairs, vocabulary), steps)
        results = measure(contenders, setting, rounds)
    title = f"{parameters / 1e6:.0f} M parameters, vocabulary {vocabulary:,}, {pairs} pairs a step"
    show(title, results)
    return ratios(results)


def quick() -> dict[str, Any]:
    others = [trl(1), released(1)]
    found = {
        "32000": compare(SMALL, 32_000, [ours(1024), *others, trl(2), TRL_DEFAULT], 8, 3, 1),
        # A pair takes TRL seconds here.
        "128256": compare(SMALL, 128_256, [ours(512), *others], 4, 3, 1),
    }
    return {**worst(list(found.values())), "by_vocabulary": found}


def full() -> dict[str, Any]:
    found = {}
    for name, shape, vocabulary in (
        ("25M 32k", SMALL, 32_000),
        ("62M 128k", SMALL, 128_256),
        ("deep 32k", DEEP, 32_000),
    ):
        contenders = [
            ours(512),
            ours(1024, "ours, 1024 tokens a pass"),
            ours(4096, "ours, 4096 tokens a pass"),
            ours(512, "ours, gradient checkpointing", gradient_checkpointing=True),
            ours(512, "ours, padded", packing=False),
            ours(512, "ours, ZeRO 2", zero_stage=2),
            trl(1),
            trl(2),
            trl(4),
            trl(1, gradient_checkpointing=True),
            TRL_DEFAULT,
            released(1),
            released(2),
        ]
        found[name] = compare(shape, vocabulary, contenders, 8, 4, 1)
    return {**worst(list(found.values())), "by_model": found}


def scaling() -> dict[str, Any]:
    """One thing varied at a time around 4 pairs of two answers of 256 tokens, 32 k words."""
    base = {"tokens": 256, "vocabulary": 32_000, "kept": 0.75, "pairs": 4}
    varied = {
        "tokens": (128, 256, 512, 1024),
        "vocabulary": (8_000, 32_000, 128_000, 256_000),
        "kept": (0.1, 0.25, 0.5, 0.75, 1.0),
        "pairs": (2, 4, 8, 16),
    }
    print("| varied | to | s a step | CPU s a step | over policy, gradients and Adam, MB |")
    print("|---|---|---|---|---|")
    found: dict[str, Any] = {}
    for name, values in varied.items():
        for value in values:
            point = {**base, name: value}
            size, kept = point["tokens"], max(1, round(point["kept"] * point["tokens"]))
            rows = [
                make_row(20, size, kept, size, kept, seed, point["vocabulary"])
                for seed in range(point["pairs"])
            ]
            with tempfile.TemporaryDirectory() as folder:
                parameters = write_model(Path(folder), SMALL, point["vocabulary"], "float32")
                (row,) = measure([ours(1200)], Setting(Path(folder), rows, 4), rounds=1)
            seconds = point["pairs"] / row["pairs_per_second"]
            cpu_seconds = point["pairs"] / row["pairs_per_cpu_second"]
            rest = (row["peak_memory"] - 12 * parameters) / 1e6
            print(
                f"| {name} | {value:,} | {seconds:.2f} | {cpu_seconds:.2f} | {rest:,.0f} |",
                flush=True,
            )
            found[f"{name}={value}"] = {
                "seconds": seconds, "cpu_seconds": cpu_seconds, "megabytes": rest
            }  # fmt: skip
    return found


def gpu(tiny: bool, layers: int | None) -> dict[str, Any]:
    """8B-shaped layers and vocabulary, as many layers as fit with fp32 weights and moments."""
    import torch

    on_gpu = torch.cuda.is_available()
    if not (on_gpu or tiny):
        raise SystemExit("there is no GPU here: --tiny runs the same on a CPU")
    device = "cuda" if on_gpu else "cpu"
    if tiny:
        shape, vocabulary, pairs, tokens = {**TINY, "tied": False}, 1024, 8, 1024
    else:
        if layers is None:
            memory = torch.cuda.get_device_properties(0).total_memory
            # 18 bytes a parameter on either side, a quarter of the card for activations.
            layers = min(32, int((0.75 * memory / 18 - 1.05e9) / 0.218e9))
        shape = {**EIGHT_B, "num_hidden_layers": layers, "tied": False}
        vocabulary, pairs, tokens = 128_256, 64, 16384
    rows = pick_rows(pairs, vocabulary)
    contenders = [
        ours(tokens, zero_stage=1),
        ours(tokens, "ours, gradient checkpointing", zero_stage=1, gradient_checkpointing=True),
        trl(4),
        trl(8),
        trl(8, gradient_checkpointing=True),
        TRL_DEFAULT,
        released(2),
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), shape, vocabulary, "bfloat16")
        results = measure(contenders, Setting(Path(folder), rows, 4, device, "bfloat16"), 1)
    peak = 1e12
    if on_gpu:
        name = torch.cuda.get_device_name(0)
        peak *= next((peak for part, peak in PEAK_TFLOPS.items() if part in name), float("nan"))
    work = flops(shape, vocabulary, rows) / len(rows)
    for row in results:
        if "failed" not in row:
            row["mfu"] = row["pairs_per_second"] * work / peak
    show(f"{shape}, vocabulary {vocabulary:,}, {pairs} pairs a step, bfloat16", results, ("mfu",))
    if not on_gpu:
        print("\nmfu is against a made-up 1 TFLOP/s: this is a CPU")
    mine = next(row for row in results if row["name"] == "ours" and "failed" not in row)
    return {**ratios(results), "mfu": mine["mfu"], "device": device}


def flops(shape: dict[str, int], vocabulary: int, rows: list[dict[str, Any]]) -> float:
    """Floating point operations that one step needs, forward and backward.

    Only what the loss needs: no padding, nothing computed twice, the head for kept tokens only,
    and half of the attention matrix, since it is causal.
    """
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    shared = shape.get("kv_heads", shape["heads"]) / shape["heads"]
    of_layer = width * width * (2 + 2 * shared) + 3 * width * shape["intermediate_size"]
    total = 0.0
    for row in rows:
        for side in ("chosen", "rejected"):
            size = len(row["prompt"]) + len(row[side]) - 1
            total += 6 * layers * (of_layer * size + width * size * size)
            total += 6 * width * vocabulary * sum(row[f"{side}_weights"])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    how = parser.add_mutually_exclusive_group()
    for name in ("quick", "scaling", "gpu"):
        how.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="--gpu at a size for a CPU")
    parser.add_argument("--layers", type=int, help="of the model of --gpu; as many as fit")
    given = parser.parse_args()
    if (given.tiny or given.layers) and not given.gpu:
        parser.error("--tiny and --layers belong to --gpu")
    if given.gpu:
        result = gpu(given.tiny, given.layers)
    elif given.scaling:
        result = scaling()
    else:
        result = quick() if given.quick else full()
    print()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
