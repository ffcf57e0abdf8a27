"""Ratios and tables of what was measured."""

import sys
from typing import Any

FIGURES = ("pairs_per_second", "pairs_per_cpu_second", "peak_memory", "peak_rss")
OTHERS = {"trl_dpo": "", "released": "_released"}
AS_FAST = 0.9  # of the fastest: two runs of one setting differ by a tenth
Results = list[dict[str, Any]]


def ratios(results: Results) -> dict[str, float | None]:
    """Ours at its best over TRL at its best, and over the released method at its best.

    ``leanest_memory_ratio`` is of the settings of ours and of TRL with the least memory. A ratio is
    None where no setting of one of the two ran.
    """
    found: dict[str, float | None] = {}
    mine = best(results, "ours")
    for script, ending in OTHERS.items():
        other = best(results, script)
        for figure in FIGURES:
            ratio = mine[figure] / other[figure] if mine and other else None
            found[f"{figure}_ratio{ending}"] = ratio
    mine, other = (leanest(results, script) for script in ("ours", "trl_dpo"))
    ratio = mine["peak_memory"] / other["peak_memory"] if mine and other else None
    return {**found, "leanest_memory_ratio": ratio}


def fastest(results: Results, script: str) -> dict[str, Any] | None:
    """The row of a trainer with the most pairs a second, if any of its settings ran."""
    return max(_ran(results, script), key=lambda row: row["pairs_per_second"], default=None)


def best(results: Results, script: str) -> dict[str, Any] | None:
    """The row of a trainer with the least memory of those within a tenth of its fastest.

    Of two settings that are equally fast chance would else choose which memory is compared.
    """
    ran = _ran(results, script)
    least = AS_FAST * max((row["pairs_per_second"] for row in ran), default=0.0)
    return leanest([row for row in ran if row["pairs_per_second"] >= least], script)


def leanest(results: Results, script: str) -> dict[str, Any] | None:
    """The row of a trainer with the least memory, if any of its settings ran."""
    return min(_ran(results, script), key=lambda row: row["peak_memory"], default=None)


def _ran(results: Results, script: str) -> Results:
    return [row for row in results if row["script"] == script and "failed" not in row]


def failures(results: Results) -> dict[str, str]:
    """Why a contender did not run, by its name."""
    return {row["name"]: row["failed"] for row in results if "failed" in row}


def worst(found: list[dict[str, Any]]) -> dict[str, float | None]:
    """The least favourable of each ratio; None where one of them is missing."""
    least: dict[str, float | None] = {}
    for key in (key for key in found[0] if "_ratio" in key):
        values = [each[key] for each in found]
        pick = min if "second" in key else max
        least[key] = None if None in values else pick(values)
    return least


def show(title: str, results: Results, more: tuple[str, ...] = ()) -> None:
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
            + "".join(" - |" if row[name] is None else f" {row[name]:.3g} |" for name in more)
        )
    sys.stdout.flush()
