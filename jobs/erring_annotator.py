"""What an annotator's errors do to DPO, to Mask-DPO, and to masks that weigh its confidence.

    python jobs/erring_annotator.py [--rates 0.05 0.1 0.2] [--seeds 0 1 2] [--runs runs/erring]
        [section.key=value ...]

On the closed world, whose annotator is exact, a set share of its verdicts is turned into the
opposite before pairs are made (``annotation.error_rate``, with a calibrated confidence). Three
systems learn from each of these:

dpo         vanilla DPO on the pairs
hard mask   Mask-DPO
soft mask   Mask-DPO with the confidence of each verdict as the weight of its tokens
            (``preference.weights: confidence``)

All are examined by the exact annotator. The answers are sampled once a seed; runs resume where
they stopped. Further settings are those of ``maskdpo demo``. Results go to ``RUNS/results.json``;
the table shows means over the seeds, in percent of correct sentences on people never trained on.
"""

import argparse
import json
import sys
from pathlib import Path

from maskdpo_ray.cli import main as maskdpo
from maskdpo_ray.report.table import aligned

HARD = "systems={dpo: {mask: none}, hard_mask: {}}"
SOFT = "systems={soft_mask: {}}"


def report_of(folder: Path, seed: int, settings: list[str]) -> dict:
    """The report of a finished run with these settings, in a directory that others share."""
    run = ["demo", f"run_dir={folder}", f"seed={seed}", *settings, "--rerun"]
    if status := maskdpo(run):
        sys.exit(status)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def scores(folder: Path, seed: int, rate: float, settings: list[str]) -> dict[str, dict]:
    """Greedy and sampled score of every system that learnt from verdicts with these errors."""
    erring = [f"annotation.error_rate={rate}", "evaluation.annotation={annotator: closed_world}"]
    found = report_of(folder, seed, [*settings, *erring, HARD])["systems"]
    if rate:  # where nothing errs, nothing is in doubt
        soft = [*settings, *erring, "preference.weights=confidence", SOFT]
        found |= report_of(folder, seed, soft)["systems"]
    return {
        system: {decoding: of[decoding]["micro"] for decoding in ("greedy", "sampled")}
        for system, of in found.items()
    }


def table(results: list[dict]) -> list[list[str]]:
    """Means over the seeds, with the greedy scores of each seed."""
    rows = [["error rate", "system", "greedy", "by seed", "sampled"]]
    for rate in sorted({result["error_rate"] for result in results}):
        seeds = [result["systems"] for result in results if result["error_rate"] == rate]
        for system in seeds[0]:
            greedy = [each[system]["greedy"] for each in seeds]
            sampled = [each[system]["sampled"] for each in seeds]
            rows.append(
                [
                    f"{rate:.0%}",
                    system,
                    f"{sum(greedy) / len(greedy):.1f}",
                    ", ".join(f"{score:.1f}" for score in greedy),
                    f"{sum(sampled) / len(sampled):.1f}",
                ]
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/erring"), help="where they lie")
    given, settings = parser.parse_known_args()
    if wrong := [word for word in settings if word.startswith("-") or "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    folder = given.runs.resolve()
    results = [
        {
            "seed": seed,
            "error_rate": rate,
            "systems": scores(folder / str(seed), seed, rate, settings),
        }
        for seed in given.seeds
        for rate in dict.fromkeys([0.0, *given.rates])
    ]
    (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(aligned(table(results), names=2))


if __name__ == "__main__":
    main()
