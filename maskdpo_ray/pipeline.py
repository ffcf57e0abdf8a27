"""The job graph: questions in; pairs, an aligned model, and a report of what it gained out.

``run`` is the whole of it. The other verbs are its stages, one at a time, for people who want to
look in between; what is finished is never done again, whichever way it was reached.
"""

import json
import time
from collections.abc import Callable

from maskdpo_ray.errors import UserError
from maskdpo_ray.preference.public_format import to_public
from maskdpo_ray.progress import say
from maskdpo_ray.report.table import best_of_n_table, systems_table
from maskdpo_ray.report.write import write_report
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.stages import Stages
from maskdpo_ray.stream import StreamStage, run_stream, start_ray


def run(stages: Stages) -> None:
    """Every stage that is not done."""
    # One streaming execution: while a question is annotated the next is being sampled.
    stream(stages, stages.questions("train"), stages.sample(), stages.annotate(), stages.pair())
    publish(stages.pair().store)
    report(stages)  # of the pairs, while training takes its time
    reference(stages)
    train(stages)
    if stages.evaluates:
        evaluate(stages)
    report(stages)


def sample(stages: Stages) -> None:
    stream(stages, stages.questions("train"), stages.sample())


def annotate(stages: Stages) -> None:
    stream(stages, finished(stages.sample().store), stages.annotate())


def pair(stages: Stages) -> None:
    stream(stages, finished(stages.annotate().store), stages.pair())
    publish(stages.pair().store)


def reference(stages: Stages) -> None:
    stream(stages, some_pairs(stages), stages.reference())


def train(stages: Stages) -> None:
    for system in stages.config.systems:
        train_system(stages, system)


def evaluate(stages: Stages) -> None:
    """Answer the test questions with base and trained systems, and examine the answers."""
    for system in stages.config.systems:
        finished(stages.train(system))
    for policy in stages.policies():
        stream(stages, stages.questions("test"), stages.answer(policy), stages.evaluate(policy))


def evaluate_and_report(stages: Stages) -> None:
    evaluate(stages)
    report(stages)


def best_of_n(stages: Stages) -> None:
    """The samples of the evaluation, as expected best of N with intervals."""
    evaluate(stages)
    print(best_of_n_table(write_report(stages)))


def report(stages: Stages) -> None:
    """``report.json`` and ``report.html`` of all that is done, and the table of the systems."""
    made = write_report(stages)
    if made["systems"]:
        print(systems_table(made))


def stream(stages: Stages, source: StageStore, *graph: StreamStage) -> None:
    """Bring the rows of ``source`` through ``graph``, and say what came out."""
    run_stream(list(graph), source, stages.config.resources, stages.versions)
    for stage in graph:
        say(stage.store.summary())


def publish(pairs: StageStore) -> None:
    """``pairs.jsonl`` beside the pairs: the public Mask-DPO format, for other trainers."""
    if not pairs.folder.exists("pairs.jsonl"):
        rows = sorted(pairs.rows(), key=lambda row: row["id"])
        lines = (json.dumps(to_public(row), ensure_ascii=False) + "\n" for row in rows)
        pairs.folder.write("pairs.jsonl", "".join(lines).encode())


def train_system(stages: Stages, system: str) -> None:
    """Align the policy on the pairs; its folder gets ``model/``, metrics and checkpoints."""
    from maskdpo_ray.training.stage import run_training

    store = stages.train(system)
    if not store.complete:
        some_pairs(stages)
        finished(stages.reference().store)
        job = stages.training_job(system)
        start_ray(stages.config.resources)
        store.begin(stages.versions)
        begun = time.perf_counter()
        last = run_training(job, stages.config.resources.training)
        store.finish({"steps": last["step"]}, time.perf_counter() - begun)
    say(store.summary())


def some_pairs(stages: Stages) -> StageStore:
    """The finished pairs.

    Raises:
        UserError: not one question gave a pair; says what became of them.
    """
    pairs = finished(stages.pair().store)
    if not pairs.finished()[0]:
        graph = (stages.questions("train"), stages.sample().store, stages.annotate().store, pairs)
        lost = "; ".join(store.summary() for store in graph)
        raise UserError(f"no preference pair to learn from: {lost}; details in rejected-*.parquet")
    return pairs


def finished(store: StageStore) -> StageStore:
    """A store that the next stage can start from.

    Raises:
        UserError: it is not complete.
    """
    if not store.complete:
        verb = store.name.partition("-")[0]
        raise UserError(
            f"stage {store.name} is not finished for this configuration: run `maskdpo {verb}` "
            "first, or `maskdpo run` for the whole graph"
        )
    return store


VERBS: dict[str, Callable[[Stages], None]] = {
    "run": run,
    "sample": sample,
    "annotate": annotate,
    "pair": pair,
    "reference": reference,
    "train": train,
    "evaluate": evaluate_and_report,
    "best-of-n": best_of_n,
    "report": report,
}
