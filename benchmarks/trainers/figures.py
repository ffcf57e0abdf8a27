"""Ratios and tables of what was measured."""

import sys
from typing import Any


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
