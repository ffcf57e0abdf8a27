"""Ratios and tables of what was measured."""

import sys
from typing import Any

FIGURES = ("pairs_per_second", "pairs_per_cpu_second", "peak_memory", "peak_rss")
# Which kinds are set side by side, and what their ratios' names end with.
COMPARED = (
    ("ours", "trl_dpo", ""),
    ("ours", "released", "_released"),
    ("unmasked", "trl_dpo", "_unmasked"),
)
SAME_LOSS = {"_released": ("ours", "released"), "_trl": ("unmasked", "trl_dpo")}
AS_FAST = 0.9  # of the fastest: two runs of one setting differ by a tenth
Results = list[dict[str, Any]]


def ratios(results: Results) -> dict[str, float | None]:
    """Ours over TRL, over the released method, and without the mask over TRL, which has none: the
    speed of the fastest setting of either, the memory of its best (``best``).

    ``leanest_memory_ratio`` is of the settings of ours and of TRL with the least memory.
    ``loss_difference_released`` and ``loss_difference_trl`` are the largest relative differences
    between losses that must be the same: of ours and the released method, and of ours without the
    mask and TRL. All are None where one of the two did not run.
    """
    found: dict[str, float | None] = {}
    for ours, theirs, ending in COMPARED:
        for figure in FIGURES:
            pick = fastest if "second" in figure else best
            mine, other = pick(results, ours), pick(results, theirs)
            ratio = mine[figure] / other[figure] if mine and other else None
            found[f"{figure}_ratio{ending}"] = ratio
    mine, other = (leanest(results, kind) for kind in ("ours", "trl_dpo"))
    ratio = mine["peak_memory"] / other["peak_memory"] if mine and other else None
    found["leanest_memory_ratio"] = ratio
    for ending, kinds in SAME_LOSS.items():
        found[f"loss_difference{ending}"] = loss_difference(*(_ran(results, k) for k in kinds))
    return found


def loss_difference(some: Results, others: Results) -> float | None:
    """The largest relative difference, over the steps that both did."""
    found = [
        abs(a - b) / abs(b)
        for one in some
        for other in others
        for a, b in zip(one["losses"], other["losses"], strict=False)
    ]
    return max(found, default=None)


def fastest(results: Results, kind: str) -> dict[str, Any] | None:
    """The row of a trainer with the most pairs a second, if any of its settings ran."""
    return max(_ran(results, kind), key=lambda row: row["pairs_per_second"], default=None)


def best(results: Results, kind: str) -> dict[str, Any] | None:
    """The row of a trainer with the least memory of those within a tenth of its fastest.

    Of two settings that are equally fast chance would else choose which memory is compared.
    """
    ran = _ran(results, kind)
    least = AS_FAST * max((row["pairs_per_second"] for row in ran), default=0.0)
    return leanest([row for row in ran if row["pairs_per_second"] >= least], kind)


def leanest(results: Results, kind: str) -> dict[str, Any] | None:
    """The row of a trainer with the least memory, if any of its settings ran."""
    return min(_ran(results, kind), key=lambda row: row["peak_memory"], default=None)


def _ran(results: Results, kind: str) -> Results:
    return [row for row in results if row["kind"] == kind and "failed" not in row]


def failures(results: Results) -> dict[str, str]:
    """Why a contender did not run, by its name."""
    return {row["name"]: row["failed"] for row in results if "failed" in row}


def worst(found: list[dict[str, Any]]) -> dict[str, float | None]:
    """The least favourable of each ratio; None where one of them is missing."""
    least: dict[str, float | None] = {}
    for key in (key for key in found[0] if "_ratio" in key or "_difference" in key):
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
