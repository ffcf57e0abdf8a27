"""Masked DPO side by side with TRL's DPOTrainer and with the released code's method.

    python benchmarks/training.py --quick      # two vocabularies, a few steps each
    python benchmarks/training.py              # every setting of TRL worth trying, and more shapes
    python benchmarks/training.py --scaling    # how time and memory of ours grow
    python benchmarks/training.py --gpu        # 8B-shaped layers in bf16 on one card (--tiny: CPU)

Each trainer runs in a process of its own with the same random model, the same pairs, AdamW and one
global batch; only training steps are timed. Lengths and kept tokens are those of pairs made from
labelled biographies (``biography_lengths.json``: tokens of prompt, chosen, kept, rejected, kept).
TRL lives in an environment made on first use, on top of this one: same PyTorch and Transformers.

``peak_memory`` is the most that is resident while training, less the process as it was before it
loaded anything and the size of the policy: gradients, optimizer, activations, a reference model
where one is kept. ``peak_rss`` is the whole process.
Ratios are ours / theirs. Of ours they are all of one setting, named under ``setting``: the leanest
that does twice TRL's pairs, or else the fastest. Of the others speed is their fastest setting's and
memory that of the leanest within a tenth of it. ``fastest_...`` and ``leanest_...`` are of the
extremes of both sides. TRL has no mask and learns from all tokens: ``..._unmasked`` is ours doing
just that. ``loss_difference_...`` is how far apart losses are that must be the same. The
last line is one JSON object: the least favourable of each ratio over the vocabularies, null where
one of the sides did not run, and under ``failed`` the reasons.
"""

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

from trainers.card import apart, find_card
from trainers.contenders import (
    TRL_DEFAULT,
    Contender,
    for_gpu,
    measure,
    ours,
    released,
    trl,
    unmasked,
)
from trainers.figures import failures, ratios, setting_of_ours, show, worst
from trainers.setting import Setting, flops, make_row, pick_rows, write_model

SMALL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "heads": 6}
DEEP = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 12, "heads": 9}
EIGHT_B = {"hidden_size": 4096, "intermediate_size": 14336, "heads": 32, "kv_heads": 8}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "heads": 2}


RECOMPUTING = [ours(512, gradient_checkpointing=True), trl(1, gradient_checkpointing=True)]


def compare(shape: dict[str, int], vocabulary: int, contenders: list[Contender], pairs: int,
            steps: int, rounds: int) -> dict[str, Any]:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_model(Path(folder), shape, vocabulary, "float32")
        setting = Setting(Path(folder), pick_rows(pairs, vocabulary), steps)
        results = measure(contenders, setting, rounds)
    title = f"{parameters / 1e6:.0f} M parameters, vocabulary {vocabulary:,}, {pairs} pairs a step"
    show(title, results)
    return summary(results)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    mine = setting_of_ours(results)
    return {
        **ratios(results),
        "setting": mine and mine["name"],
        "failed": failures(results),
    }


def quick() -> dict[str, Any]:
    few = [ours(512), ours(1024), unmasked(512), trl(1), released(1)]
    many = [ours(512), trl(1), released(1), *RECOMPUTING]
    found = {
        "32000": compare(SMALL, 32_000, few, 8, 4, 1),
        "128256": compare(SMALL, 128_256, many, 4, 3, 1),  # a pair takes TRL seconds here
    }
    return {**worst(list(found.values())), "by_vocabulary": found}


def full() -> dict[str, Any]:
    """Every setting at the small size; where a pair takes TRL seconds, the best ones of it."""
    best = [ours(512), ours(1024), unmasked(512), trl(1), trl(2), released(1), *RECOMPUTING]
    every = [
        *best,
        ours(4096),
        ours(512, packing=False),
        ours(512, zero_stage=2),
        trl(4),
        TRL_DEFAULT,
        released(2),
    ]
    found = {}
    for name, shape, vocabulary, contenders in (
        ("25M 32k", SMALL, 32_000, every),
        ("62M 128k", SMALL, 128_256, best),
        ("deep 32k", DEEP, 32_000, best),
    ):
        found[name] = compare(shape, vocabulary, contenders, pairs=8, steps=4, rounds=1)
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
    """8B-shaped layers and vocabulary, as many layers as fit with fp32 weights and moments.

    This process keeps off the GPU: what it held there, the contenders would lack.
    """
    card = apart(find_card)
    if not (card or tiny):
        raise SystemExit("there is no GPU here: --tiny runs the same on a CPU")
    if tiny:
        shape, vocabulary, pairs, tokens = {**TINY, "tied": False}, 1024, 8, 1024
    else:
        shape = {**EIGHT_B, "num_hidden_layers": layers or card.layers, "tied": False}
        vocabulary, pairs, tokens = 128_256, 64, 16384
    rows = pick_rows(pairs, vocabulary)
    kernels = ("flash_attn", "liger_kernel") if card else ()  # of GPUs
    installed = {name for name in kernels if importlib.util.find_spec(name)}
    with tempfile.TemporaryDirectory() as folder:
        apart(write_model, Path(folder), shape, vocabulary, "bfloat16")
        setting = Setting(Path(folder), rows, 4, "cuda" if card else "cpu", "bfloat16")
        results = measure(for_gpu(tokens, installed), setting, rounds=1)
    peak = card.peak if card else 1e12
    work = flops(shape, vocabulary, rows) / len(rows)
    for row in results:
        if "failed" not in row:
            row["mfu"] = row["pairs_per_second"] * work / peak if peak else None
    show(f"{shape}, vocabulary {vocabulary:,}, {pairs} pairs a step, bfloat16", results, ("mfu",))
    if not card:
        print("\nmfu is against a made-up 1 TFLOP/s: this is a CPU")
    mine = setting_of_ours(results)
    return {
        **summary(results),
        "mfu": mine["mfu"] if mine else None,
        "device": card.name if card else "cpu",
    }


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
