"""The evaluation in the model card of a trained system, which is written before there is one."""

from collections.abc import Mapping
from typing import Any

from maskdpo_ray.report.silence import BASE
from maskdpo_ray.report.table import (
    Table,
    detail_rows,
    factscore_rows,
    lm_eval_rows,
    short_form_rows,
    system_rows,
    win_rate_rows,
)


def evaluation_text(report: Mapping[str, Any], system: str) -> str | None:
    """A system beside its base, as Markdown: scores, warnings, details. None where the system has
    no score."""
    if system not in report["systems"]:
        return None
    lines = ["Answers to questions about held-out topics, with 95 % intervals over topics.", ""]
    lines += _markdown(_of(system, system_rows(report))) + [""]
    for warning in report["warnings"]:
        if warning["system"] == system:
            lines += [f"**Warning:** {warning['text']}", ""]
    lines += _markdown(_of(system, detail_rows(report))) + [""]
    if report["factscore"]:
        lines += _markdown(_of(system, factscore_rows(report))) + [""]
    if system in report["win_rate"]:
        lines += _markdown(_of(system, win_rate_rows(report)), names=1) + [""]
    if system in report["short_form"]:
        lines += _markdown(_of(system, short_form_rows(report))) + [""]
    if system in report["lm_eval"]:
        table = lm_eval_rows(report)
        kept = [table[0], *(row for row in table[1:] if row[3] in (BASE, system))]
        lines += _markdown(kept, names=4) + [""]
    lines.append(
        "Score: percent of correct sentences, those without a fact among them; facts only: without "
        "them. `report.json` and `report.html` of the run hold all of it."
    )
    return "\n".join(lines)


def _of(system: str, table: Table) -> Table:
    return [table[0], *(row for row in table[1:] if row[0] in (BASE, system))]


def _markdown(table: Table, names: int = 2) -> list[str]:
    rule = [*["---"] * names, *["---:"] * (len(table[0]) - names)]
    return [f"| {' | '.join(row)} |" for row in (table[0], rule, *table[1:])]
