"""The job graph: questions in; pairs, an aligned model, and a report of what it gained out.

``run`` is the whole of it. The other verbs are its stages, one at a time, for people who want to
look in between; what is finished is never done again, whichever way it was reached.
"""

import time
from collections.abc import Callable

from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.evaluation.best_answers import best_answers
from maskdpo_ray.evaluation.judge_check import checked
from maskdpo_ray.evaluation.recorded import Answered, answered
from maskdpo_ray.preference.processor import not_selected
from maskdpo_ray.preference.public_format import to_public
from maskdpo_ray.preference.weighted_format import to_weighted
from maskdpo_ray.progress import say
from maskdpo_ray.records import Pair
from maskdpo_ray.report.table import (
    agreement_table,
    best_of_n_table,
    factscore_table,
    judges_table,
    labels_table,
    lm_eval_table,
    member_tables,
    short_form_table,
    systems_table,
    win_rate_table,
)
from maskdpo_ray.report.write import write_report
from maskdpo_ray.rundir import StageStore
from maskdpo_ray.sampling.export import exported
from maskdpo_ray.stages import Policy, Stages
from maskdpo_ray.stream import StreamStage, run_stream, start_ray


def run(stages: Stages) -> None:
    """Every stage that is not done, and the report.

    Raises:
        UserError: the configuration asks for neither training nor evaluation.
    """
    if not (stages.config.systems or stages.config.evaluates):
        raise UserError(
            "there is nothing to run: systems={} trains none, and without data.test nothing is "
            "evaluated: set either, or make pairs alone (`maskdpo sample`, `annotate`, `pair`)"
        )
    if stages.config.systems and not stages.config.data.weighted:
        _ = stages.config.annotator
    complete(stages, report)
    report(stages)


def complete(stages: Stages, paired: Callable[[Stages], None] = lambda stages: None) -> None:
    """Every stage that is not done.

    Args:
        paired: called when there are new pairs, before training takes its time.
    """
    if stages.config.evaluates:
        _ = stages.config.evaluation_annotation  # before training takes its time
    ready: list[Policy] = []  # systems share the pairs of the first round
    for system, round in stages.trainings():
        start = stages.start(system, round)
        if start not in ready:
            prepare(stages, start, paired)
            ready.append(start)
        train_system(stages, system, round)
    if stages.config.evaluates:
        evaluate(stages)


def prepare(stages: Stages, start: Policy, paired: Callable[[Stages], None]) -> None:
    """Pairs from answers of ``start``, and their log-probabilities under it."""
    take_pairs(stages, start)
    rehearse(stages, start)
    # One streaming execution: while a question is annotated the next is being sampled.
    _say_given_pairs(stages)
    (first, pairing), *others = stages.pairings(start).items()
    stream(stages, stages.questions("train"), *stages.before_pairs(start), pairing)
    publish(stages, start, first)
    for system, pairing in others:
        stream(stages, finished(stages.source_of_pairs(start)), pairing)
        publish(stages, start, system)
    paired(stages)
    refer(stages, start)


def refer(stages: Stages, start: Policy) -> None:
    """Log-probabilities of all pairs from answers of ``start``, whichever system learns them."""
    for system in stages.pairings(start):
        stream(stages, some_pairs(stages, start, system), stages.reference(start))


def rehearse(stages: Stages, start: Policy) -> None:
    """Load the base as training does, and try its export, where pairs are still to be made."""
    from maskdpo_ray.training.rehearsal import rehearse_training

    if start != stages.base or all(each.store.complete for each in stages.pairings(start).values()):
        return
    config = stages.config
    start_ray(config.resources)
    systems = [config.training_of(name) for name in config.systems]
    where = config.resources.reference
    rehearse_training(stages.model_of(start), start.identity, systems, where, stages.versions)


def sample(stages: Stages) -> None:
    _refuse_given_pairs(stages)
    for start in starts(stages):
        store = stages.sample(start).store
        stream(stages, stages.questions("train"), stages.sample(start))
        store.folder.write_jsonl("candidates.jsonl", map(exported, store.rows()))
        say(f"for a judge of your own (docs/your_annotator.md): {store.folder}/candidates.jsonl")


def annotate(stages: Stages) -> None:
    _refuse_given_pairs(stages)
    for start in starts(stages):
        stream(stages, finished(stages.sample(start).store), stages.annotate(start))


def pair(stages: Stages) -> None:
    for start in starts(stages):
        take_pairs(stages, start)
        _say_given_pairs(stages)
        for system, pairing in stages.pairings(start).items():
            stream(stages, finished(stages.source_of_pairs(start)), pairing)
            publish(stages, start, system)


def _say_given_pairs(stages: Stages) -> None:
    """Of pairs that are given, what became of the file's rows: what is not read is not learnt."""
    if stages.config.data.weighted:
        say(stages.questions("train").summary())


def _refuse_given_pairs(stages: Stages) -> None:
    if stages.config.data.weighted:
        raise UserError(
            "data.format=weighted_pairs brings pairs: nothing is sampled or annotated; go on with "
            "`maskdpo pair`, or `maskdpo run`"
        )


def reference(stages: Stages) -> None:
    for start in starts(stages):
        refer(stages, start)


def train(stages: Stages) -> None:
    """Every round whose pairs are there; the first that lacks them says so."""
    for system, round in stages.trainings():
        train_system(stages, system, round)


def starts(stages: Stages) -> list[Policy]:
    """The policies that pairs are made from: the base, and what is trained for a next round."""
    later = [each for each in stages.trainings() if each[1] < stages.config.rounds]
    done = [each for each in later if stages.train(*each).complete]
    return [stages.base, *(stages.trained(*each) for each in done)]


def evaluate(stages: Stages) -> None:
    """Answer the test questions with all that is evaluated, and examine the answers.

    Raises:
        UserError: nobody can judge new answers.
    """
    _ = stages.config.evaluation_annotation
    if alone := stages.config.lone_examiner:
        say(f"only one examiner judges the answers, {alone}: name another in evaluation.judges")
    for training in stages.trainings():
        finished(stages.train(*training))
    for policy in stages.policies():
        if stages.is_given(policy):
            stream(stages, finished(stages.answered(policy)), stages.evaluate(policy))
        else:
            stream(stages, stages.questions("test"), stages.answer(policy), stages.evaluate(policy))
        # A stream is a chain: who examines the same answers again comes after the first examiner.
        for examination in stages.examinations(policy):
            stream(stages, finished(stages.answered(policy)), examination)
    for policy in stages.on_tasks():
        stream(stages, stages.tasks(), stages.lm_eval(policy))


def evaluate_and_report(stages: Stages) -> None:
    evaluate(stages)
    report(stages)


def best_of_n(stages: Stages) -> None:
    """The samples of the evaluation, as expected best of N with intervals, and the best of them."""
    evaluate(stages)
    print(best_of_n_table(write_report(stages)))
    best_of = max(stages.config.evaluation.best_of_n)
    asked = stages.questions("test").manifest()["counts"]["out"]
    for policy in stages.policies():
        rows = stages.evaluate(policy).store.rows()
        answers = list(best_answers(rows, best_of, stages.system_prompt(policy)))
        file = stages.dir.folder / f"best-of-{best_of}"
        file.write_jsonl(f"{policy.name}.jsonl", answers)
        said = f"best answers of {policy.name} to {len(answers)} of {asked} questions"
        say(f"{said}: {file}/{policy.name}.jsonl")


def judge_check(stages: Stages) -> None:
    """All examiners against human labels; the figures go to ``judge-check.json`` too."""
    labelled, checks = stages.judge_checks()
    said: dict[str, Answered] = {}
    for check in checks:
        if check.stage and check.same == check.key:
            stream(stages, labelled, check.stage)
            said[check.key] = answered(check.stage.store)
        elif check.stage:
            said[check.key] = said[check.same]
    examiners, without = checked(
        list(labelled.rows()),
        {check.key: check.annotation for check in checks},
        said,
        {check.key for check in checks if check.same == check.key},
        stages.config.evaluation.bootstrap,
        stages.config.seed,
    )
    stores = {check.key: check.stage.store for check in checks if check.stage}
    failed = [
        f"{key} cannot be checked: "
        + "; ".join(filter(None, (reason, key in stores and stores[key].why_rejected())))
        for key, reason in without.items()
    ]
    if not examiners:
        raise UserError("; ".join(failed))
    for line in failed:
        say(line)
    found = {"labels": str(stages.config.data.train), "examiners": examiners}
    stages.dir.folder.write_json("judge-check.json", found)
    print(agreement_table(examiners))
    for table in member_tables(examiners):
        print(f"\n{table}")


def report(stages: Stages) -> None:
    """``report.json`` and ``report.html`` of all that is done, and the tables of the systems."""
    made = write_report(stages)
    if made["systems"]:
        print(systems_table(made))
    if made["judges"]:
        print(f"\n{judges_table(made)}")
    if made["human_labels"]:
        print(f"\n{labels_table(made)}")
    if made["factscore"]:
        print(f"\n{factscore_table(made)}")
    if made["win_rate"]:
        print(f"\n{win_rate_table(made)}")
    if made["lm_eval"]:
        print(f"\n{lm_eval_table(made)}")
    if made["short_form"]:
        print(f"\n{short_form_table(made)}")


def stream(stages: Stages, source: StageStore, *graph: StreamStage) -> None:
    """Bring the rows of ``source`` through ``graph``, and say what came out."""
    run_stream(list(graph), source, stages.config.resources, stages.versions)
    for stage in graph:
        say(stage.store.summary())


def take_pairs(stages: Stages, start: Policy) -> None:
    """Take the pairs of ``preference.questions`` from those of all questions, where they stand.

    They are the same, for a question's pairs depend on no other question; and no process has to
    start for them.
    """
    if stages.selected is None:
        return
    for system, pairing in stages.pairings(start).items():
        _take(stages, pairing.store, stages.pair_all(start, system).store)


def _take(stages: Stages, part: StageStore, whole: StageStore) -> None:
    if part.manifest() is not None:
        return
    for line in whole.drop_damaged():
        say(line)
    if not whole.complete or whole.lacks_rows():
        return
    outcomes: dict[str, list[Pair] | RowRejected] = {
        row["id"]: RowRejected(row["reason"], row["detail"]) for row in whole.rejected_rows()
    }
    for pair in whole.rows():
        outcomes.setdefault(pair["question_id"], []).append(pair)
    ids = sorted(outcomes)
    preference = stages.config.preference
    kept = [outcomes[i] if i in stages.selected else not_selected(i, preference) for i in ids]
    made_of = {i: of for held in whole.held().values() for i, of in held.items() if of}
    part.begin(stages.versions)
    part.write_outcomes(ids, kept, stages.config.resources.questions_per_block, made_of)


def publish(stages: Stages, start: Policy, system: str | None) -> None:
    """The pairs for other trainers, beside them: ``weighted_pairs.jsonl``, exact token by token,
    and ``pairs.jsonl``, the public Mask-DPO format, which holds sentences with verdicts. Of
    ``preference.pairs: all_candidates`` there are none."""
    if stages.config.preference_of(system).pairs == "all_candidates":
        return  # two answers in a row are no pair
    store = stages.pair(start, system).store
    formats: dict[str, Callable[[Pair], dict]] = {
        "weighted_pairs.jsonl": lambda pair: to_weighted(pair, stages.prompt_of(pair)),
        **({} if stages.config.data.weighted else {"pairs.jsonl": to_public}),
    }
    manifest = store.manifest()
    if "published" in manifest and all(map(store.folder.exists, formats)):
        return
    rows = sorted(store.rows(), key=lambda row: row["id"])
    for name, written in formats.items():
        store.folder.write_jsonl(name, map(written, rows))
    store.finish(manifest["counts"], 0.0, published=True)  # forgotten when the stage begins again


def train_system(stages: Stages, system: str, round: int) -> None:
    """Align the policy on the pairs; its folder gets ``model/``, metrics and checkpoints."""
    from maskdpo_ray.training.stage import run_training

    store, start = stages.train(system, round), stages.start(system, round)
    pairs = stages.pair(start, system).store
    if store.complete:
        _refuse_other_pairs(store, pairs)
    else:
        references_of(stages, start, system)
        job = stages.training_job(system, round)
        start_ray(stages.config.resources)
        store.begin(stages.versions, pairs=pairs.content)
        begun = time.perf_counter()
        last = run_training(job, stages.config.resources.training)
        counts = {"steps": last["step"]}
        store.finish(counts, time.perf_counter() - begun, weights=last["weights"])
    say(store.summary())


def _refuse_other_pairs(store: StageStore, pairs: StageStore) -> None:
    """What is not finished refuses them by itself (its checkpoints know their pairs).

    Raises:
        UserError: a finished training is not of these pairs: they were made anew since.
    """
    learnt = store.manifest().get("pairs")
    if learnt and pairs.complete and learnt != pairs.content:
        raise UserError(
            f"{store.name} was trained on other pairs than there are now (files of rows were "
            f"removed and made anew): move {store.folder} away to train on these"
        )


def some_pairs(stages: Stages, start: Policy, system: str | None = None) -> StageStore:
    """The finished pairs from answers of ``start`` that ``system`` learns from.

    Raises:
        UserError: not one question gave a pair; says what became of them.
    """
    pairs = finished(stages.pair(start, system).store)
    if not pairs.finished()[0]:
        answers = (stage.store for stage in stages.before_pairs(start))
        graph = (stages.questions("train"), *answers, pairs)
        lost = "; ".join(store.summary() for store in graph)
        last = next(store for store in graph if not store.finished()[0])  # let nothing through
        raise UserError(
            f"no preference pair to learn from: {lost}; details in rejected-*.parquet, of "
            f"{last.name}: {last.why_rejected()}"
        )
    return pairs


def references_of(stages: Stages, start: Policy, system: str | None = None) -> StageStore:
    """The finished log-probabilities of the pairs from answers of ``start`` that ``system`` learns.

    Raises:
        UserError: there are no pairs, or some have none: the store outlives the pairs it was for.
    """
    pairs = some_pairs(stages, start, system)
    references = finished(stages.reference(start).store)
    if pairs.blocks(without=set.union(*references.finished()), column="digest"):
        raise _unfinished(references)
    return references


def finished(store: StageStore) -> StageStore:
    """A store that the next stage can start from.

    Raises:
        UserError: it is not complete.
    """
    if not store.complete or store.lacks_rows():
        raise _unfinished(store)
    return store


def _unfinished(store: StageStore) -> UserError:
    verb = store.name.partition("-")[0]
    return UserError(
        f"stage {store.name} is not finished for this configuration: run `maskdpo {verb}` "
        "first, or `maskdpo run` for the whole graph"
    )


VERBS: dict[str, Callable[[Stages], None]] = {
    "run": run,
    "sample": sample,
    "annotate": annotate,
    "pair": pair,
    "reference": reference,
    "train": train,
    "evaluate": evaluate_and_report,
    "best-of-n": best_of_n,
    "judge-check": judge_check,
    "report": report,
}
