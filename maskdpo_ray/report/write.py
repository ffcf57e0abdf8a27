"""From the stores of a run to report.json, report.html and the table on the console."""

import json
from typing import TYPE_CHECKING, Any

from maskdpo_ray.engine.chat import load_tokenizer
from maskdpo_ray.preference.token_spans import token_spans
from maskdpo_ray.report.build import build_report, score_system
from maskdpo_ray.report.html import render_html
from maskdpo_ray.report.table import systems_table

if TYPE_CHECKING:
    from maskdpo_ray.rundir import StageStore
    from maskdpo_ray.stages import Stages

EXAMPLES = 3


def write_report(stages: "Stages") -> str:
    """Report on all complete stages; returns what the console shows.

    Stages that are not complete are left out, so a report can be looked at in between.
    """
    config, folder = stages.config, stages.dir.folder
    graph = stages.stores()
    done = [store for store in graph if store.complete]
    systems, best = {}, {}
    if stages.evaluates:
        for policy in stages.policies():
            store = stages.evaluate(policy).store
            if store.complete:
                systems[policy.name], best[policy.name] = score_system(
                    store.rows(),
                    config.evaluation.best_of_n,
                    config.evaluation.bootstrap,
                    config.seed,
                )
    report = build_report(
        run=str(folder),
        seed=config.seed,
        versions=stages.versions,
        config=config.model_dump(mode="json"),
        manifests=[store.manifest() for store in done],
        systems=systems,
        best=best,
    )
    training = {name: _metrics(stages.train(name)) for name in config.systems}
    folder.write_json("report.json", report)
    page = render_html(report, training, _examples(stages))
    folder.write("report.html", page.encode())
    table = systems_table(report) + "\n" if systems else ""
    return f"{table}report: {folder}/report.html"


def _metrics(store: "StageStore") -> list[dict[str, Any]]:
    if not store.folder.exists("metrics.jsonl"):
        return []
    return [json.loads(line) for line in store.folder.read("metrics.jsonl").splitlines()]


def _examples(stages: "Stages") -> list[dict[str, Any]]:
    """A few pairs with the character span of each token, for the viewer."""
    store = stages.pair().store
    if not store.complete:
        return []
    pairs = sorted(store.rows(), key=lambda pair: pair["id"])[:EXAMPLES]
    tokenizer = load_tokenizer(stages.model_of(stages.base)) if pairs else None
    for pair in pairs:
        for side in (pair["chosen"], pair["rejected"]):
            side["token_spans"] = token_spans(tokenizer, side["token_ids"], side["response"])
    return pairs
