"""The table of systems: scores with the counts beside them."""

from typing import Any

HEADER = ["system", "greedy", "95 %", "correct", "wrong", "sampled", "95 %", "sentences", "tokens"]


def systems_rows(report: dict[str, Any]) -> list[list[str]]:
    """One row of text per system, under ``header(report)``."""
    rows = []
    for name, system in report["systems"].items():
        greedy, sampled = system["greedy"], system["sampled"]
        best = report["best_of_n"][name]
        rows.append(
            [
                name,
                f"{greedy['micro']:.1f}",
                _interval(greedy),
                str(greedy["correct"]),
                str(greedy["incorrect"]),
                f"{sampled['micro']:.1f}",
                _interval(sampled),
                f"{greedy['mean_sentences']:.1f}",
                f"{greedy['mean_tokens']:.0f}",
                *(f"{value:.1f}" for value in best.values()),
            ]
        )
    return rows


def header(report: dict[str, Any]) -> list[str]:
    best = next(iter(report["best_of_n"].values()), {})
    return [*HEADER, *(f"best of {n}" for n in best)]


def systems_table(report: dict[str, Any]) -> str:
    """The table as aligned text; names to the left, figures to the right."""
    table = [header(report), *systems_rows(report)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _interval(score: dict[str, Any]) -> str:
    low, high = score["ci95"]
    return f"{low:.1f}-{high:.1f}"
