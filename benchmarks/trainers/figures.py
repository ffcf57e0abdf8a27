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
GOAL = 2.0  # times TRL's pairs per second
SAME_LOSS = {"_released": ("ours", "released"), "_trl": ("unmasked", "trl_dpo")}
AS_FAST = 0.9  # of the fastest: two runs of one setting differ by a tenth
Results = list[dict[str, Any]]


def ratios(results: Results) -> dict[str, float | None]:
    """Ours over TRL, over the released method, and without the mask over TRL, which has none.

    Of ours all figures are one setting's: the leanest that does twice TRL's pairs, or else the
    fastest. Of the others speed is that of their fastest setting and memory that of their best
    (``best``). Two more ratios are of both sides' extremes, ``fastest_pairs_per_second_ratio`` and
    ``leanest_memory_ratio``. A comparison is left out where nobody was to run for one side.
    ``loss_difference_released`` and ``loss_difference_trl`` are the largest relative differences
    between losses that must be the same: of ours and the released method, and of ours without the
    mask and TRL. All are None where one of the two did not run.
    """
    found: dict[str, float | None] = {}
    asked = {row["kind"] for row in results}
    for ours, theirs, ending in COMPARED:
        if not {ours, theirs} <= asked:
            continue
        mine = setting_of_ours(results) if ours == "ours" else fastest(results, ours)
        for figure in FIGURES:
            other = (fastest if "second" in figure else best)(results, theirs)
            found[f"{figure}_ratio{ending}"] = _ratio(mine, other, figure)
    extremes = {"fastest_pairs_per_second": fastest, "leanest_memory": leanest}
    for (name, pick), figure in zip(extremes.items(), FIGURES[::2], strict=True):
        found[f"{name}_ratio"] = _ratio(*(pick(results, k) for k in ("ours", "trl_dpo")), figure)
    for ending, kinds in SAME_LOSS.items():
        if asked >= set(kinds):
            found[f"loss_difference{ending}"] = loss_difference(*(_ran(results, k) for k in kinds))
    return found


def setting_of_ours(results: Results) -> dict[str, Any] | None:
    """The row that ours is judged by: the leanest that does ``GOAL`` times the pairs of TRL at its
    fastest; where none does, or TRL did not run, the fastest."""
    theirs = fastest(results, "trl_dpo")
    enough = [
        row
        for row in _ran(results, "ours")
        if theirs and row["pairs_per_second"] >= GOAL * theirs["pairs_per_second"]
    ]
    return leanest(enough, "ours") or fastest(results, "ours")


def _ratio(mine: dict[str, Any] | None, other: dict[str, Any] | None, figure: str) -> float | None:
    return mine[figure] / other[figure] if mine and other else None


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
    keys = dict.fromkeys(key for each in found for key in each)
    for key in (key for key in keys if "_ratio" in key or "_difference" in key):
        values = [each[key] for each in found if key in each]
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
