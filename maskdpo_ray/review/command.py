"""``maskdpo review`` and ``maskdpo import-labels``."""

import heapq
from collections.abc import Iterable, Iterator
from typing import Any

from maskdpo_ray.errors import UserError
from maskdpo_ray.progress import say
from maskdpo_ray.records import Question
from maskdpo_ray.review.answers import render_answers
from maskdpo_ray.review.disputed import Disputed, disputed
from maskdpo_ray.review.label_studio import INTERFACE, tasks
from maskdpo_ray.review.labels import as_questions, read_labels
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sources import Source
from maskdpo_ray.stages import Stages
from maskdpo_ray.storage import Folder

FIRST = "annotator"  # how the first examiner is called
FILES = ("review.jsonl", "label-studio.json", "label-studio.xml")


def write_review(stages: Stages, most: int, doubt: float) -> None:
    """The most disputed sentences of a run, as ``review.jsonl`` in its directory and as tasks for
    Label Studio.

    Args:
        most: so many sentences.
        doubt: a verdict with a confidence below 1 - doubt is disputed.

    Raises:
        UserError: nothing has been annotated yet, or nobody disputes anything.
    """
    groups = _groups(stages)
    found: list[Disputed] = []
    for system, stores in groups:
        found = heapq.nlargest(most, [*found, *_of_stores(system, stores, doubt)], _rank)
    if not found:
        examiners = sorted({name for _, stores in groups for name in stores})
        raise UserError(
            f"{', '.join(examiners)}: no sentence failed, is in doubt or in dispute: name a "
            "further examiner in evaluation.judges, or set annotation.confidence"
        )
    folder = stages.dir.folder
    rows, kept = with_labels_of_before([each.row for each in found], folder)
    if kept:
        say(f"{kept} labels that {folder}/{FILES[0]} had are kept")
    folder.write_jsonl(FILES[0], rows)
    folder.write_json(FILES[1], tasks(rows))
    folder.write(FILES[2], INTERFACE.encode())
    reasons = sum(each.rank[0] for each in found), sum(each.rank[1] > 0 for each in found)
    print(
        f"{len(found)} sentences, {reasons[0]} of them judged differently, {reasons[1]} with an "
        f"error: {folder}/{FILES[0]}; fill in `label`, or import {FILES[1]} into Label Studio "
        f"with {FILES[2]} as its labelling interface"
    )


def with_labels_of_before(
    rows: list[dict[str, Any]], folder: Folder
) -> tuple[list[dict[str, Any]], int]:
    """The rows with the labels that people wrote into the review file that is there already, and
    their number; what they labelled and is not among the rows follows them.

    Raises:
        UserError: the file cannot be read.
    """
    if not folder.exists(FILES[0]):
        return rows, 0
    there = Source(f"{folder}/{FILES[0]}", what="row", key="review").rows()
    labelled = {row["id"]: row for _, row in there if row.get("label") and row.get("id")}
    told = [{**row, "label": labelled.get(row["id"], row)["label"]} for row in rows]
    here = {row["id"] for row in rows}
    return told + [row for row_id, row in labelled.items() if row_id not in here], len(labelled)


def write_answers(stages: Stages) -> None:
    """A page of every examined answer for each who answered, in the run directory.

    Raises:
        UserError: nothing has been annotated yet.
    """
    groups = _groups(stages)
    folder = stages.dir.folder / "answers"
    pages = []
    for place, (system, stores) in enumerate(groups):
        candidates = place == 0 and stores[FIRST].name.startswith("annotate")
        name = "candidates" if candidates else system
        page = "".join(render_answers(name, _together(stores)))
        folder.write(f"{name}.html", page.encode())
        pages.append(f"{folder}/{name}.html")
    print("\n".join(pages))


def write_questions(files: Iterable[str], out: str) -> None:
    """The labels of these files as a file of questions with labelled answers.

    Raises:
        UserError: a file is of no form that is known, or holds no label.
    """
    files = list(files)
    if out in files:
        raise UserError(f"{out} is one of the files of labels: name another one to write")
    labels, without = [], {}
    for file in files:
        found, reasons = read_labels(file)
        labels += found
        for reason, count in reasons.items():
            without[reason] = without.get(reason, 0) + count
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(without.items()))
    if not labels:
        raise UserError(f"no label was found ({told or 'the file is empty'})")
    parent, _, name = out.rpartition("/")
    rows = list(as_questions(labels))
    folder = Folder(parent or ("/" if out.startswith("/") else "."))
    folder.write_jsonl(name, rows)
    print(
        f"{out}: {len(rows)} questions with {len(labels)} labelled sentences"
        + (f"; left out: {told}" if told else "")
    )


def _groups(stages: Stages) -> list[tuple[str, dict[str, StageStore]]]:
    groups = list(_examined(stages))
    if not groups:
        raise UserError(
            f"{stages.dir.folder}: nothing is annotated yet: run `maskdpo annotate` or `maskdpo "
            "evaluate` first"
        )
    return groups


def _examined(stages: Stages) -> Iterator[tuple[str, dict[str, StageStore]]]:
    """Who answered, and the finished stores of verdicts on the answers by who examined them."""
    config = stages.config
    if config.systems and config.annotation and not config.data.weighted:
        store = stages.annotate().store
        if store.complete:
            yield stages.base.name, {FIRST: store}
    if config.evaluates:
        for policy in stages.policies():
            examiners = {FIRST: stages.evaluate(policy).store}
            examiners |= {name: stages.evaluate(policy, name).store for name in stages.judges}
            done = {name: store for name, store in examiners.items() if store.complete}
            if FIRST in done:
                yield policy.name, done
            else:
                say(f"{policy.name}: not examined yet, left out")


def _together(stores: dict[str, StageStore]) -> Iterator[dict[str, Question]]:
    """Each question as every examiner left it, the first one first."""
    first, *others = stores
    known: dict[str, dict[str, Question]] = {
        name: {row["id"]: row for row in stores[name].rows()} for name in others
    }
    for row in stores[first].rows():
        judged = {name: rows[row["id"]] for name, rows in known.items() if row["id"] in rows}
        yield {first: row, **judged}


def _of_stores(system: str, stores: dict[str, StageStore], doubt: float) -> Iterator[Disputed]:
    for rows in _together(stores):
        yield from disputed(rows, system, doubt)


def _rank(found: Disputed) -> tuple[Any, ...]:
    # Names last: equal ones come in the same order every time.
    return (*found.rank, found.row["id"], found.row["system"])
