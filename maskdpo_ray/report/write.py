"""From the stores of a run to report.json, report.html and the table on the console."""

import heapq
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from maskdpo_ray.annotation.calls import count_calls
from maskdpo_ray.engine.chat import load_tokenizer, response_text
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.factscore.score import factscore
from maskdpo_ray.evaluation.lm_eval.score import task_figures
from maskdpo_ray.evaluation.short_form.score import short_form_score
from maskdpo_ray.evaluation.win_rate.score import win_rate
from maskdpo_ray.preference.select import count_left_out
from maskdpo_ray.preference.token_spans import MaskError, token_spans
from maskdpo_ray.progress import say
from maskdpo_ray.records import Pair, is_correct
from maskdpo_ray.report.build import (
    against_labels,
    build_report,
    facts_wanted,
    is_labelled,
    score_again,
    score_system,
)
from maskdpo_ray.report.card import evaluation_text
from maskdpo_ray.report.html import render_html
from maskdpo_ray.sampling.counts import count_answers
from maskdpo_ray.training.card import with_evaluation

if TYPE_CHECKING:
    from maskdpo_ray.config import Config
    from maskdpo_ray.rundir import StageStore
    from maskdpo_ray.stages import Stages

EXAMPLES = 3


def write_report(stages: "Stages") -> dict[str, Any]:
    """Write report.json and report.html on all complete stages; returns the report.

    Stages that are not complete are left out, so a report can be looked at in between.
    """
    config, folder = stages.config, stages.dir.folder
    _count_what_made_pairs(stages)
    graph = stages.stores()
    done = [store for store in graph if store.complete]
    systems, best, not_scored = {}, {}, {}
    judges: dict[str, Any] = {}
    if stages.config.evaluates and stages.config.first_examiner:
        k = _facts_wanted(stages)
        for policy in stages.policies():
            store = stages.evaluate(policy).store
            if store.complete:
                try:
                    systems[policy.name], of_n = score_system(
                        store.rows(),
                        config.evaluation.best_of_n,
                        k,
                        config.evaluation.bootstrap,
                        config.seed,
                    )
                    best |= {policy.name: of_n} if of_n else {}
                    not_scored |= _too_few(policy.name, systems[policy.name], of_n, config)
                except UserError as error:
                    not_scored[policy.name] = _unscored(error, store)
        for name, annotation in (config.evaluation.judges or {}).items():
            if systems_judged := _judged(stages, name, k, not_scored):
                judges[name] = {**annotation.who, "systems": systems_judged}
    factscores = {
        policy.name: _factscores(stages, store)
        for policy in (stages.policies() if config.evaluation.factscore else [])
        if (store := stages.factscore(policy).store).complete
    }
    report = build_report(
        run=str(folder),
        seed=config.seed,
        versions=stages.versions,
        config=config.saved(),
        manifests=[_manifest(store, _asks(config)) for store in done],
        systems=systems,
        best=best,
        judges=judges,
        human_labels=_labelled(stages, not_scored) if config.evaluates else {},
        not_scored=not_scored,
        factscore=factscores,
        win_rate=_win_rates(stages, not_scored),
        short_form=_short_forms(stages, not_scored),
        lm_eval=_tasks(stages),
    )
    training = {
        stages.trained(*each).name: _metrics(stages.train(*each)) for each in _trainings(stages)
    }
    folder.write_json("report.json", report)
    page = render_html(report, training, _examples(stages))
    folder.write("report.html", page.encode())
    _complete_cards(stages, report)
    for name, reason in not_scored.items():
        say(f"system {name} has no score: {reason}")
    for name, decodings in factscores.items():
        for found in decodings.values():
            if "not_scored" in found:
                say(f"system {name}: {found['not_scored']}")
    say(f"report: {folder}/report.html")
    return report


def _complete_cards(stages: "Stages", report: dict[str, Any]) -> None:
    """Write what each trained system came to into its model card, which is older."""
    for training in _trainings(stages):
        store, model = stages.train(*training), stages.train(*training).folder / "model"
        text = evaluation_text(report, stages.trained(*training).name)
        if not (text and store.complete and model.exists("README.md")):
            continue
        card = model.read("README.md").decode()
        completed = with_evaluation(card, text)
        if completed not in (None, card):
            model.write("README.md", completed.encode())


def _too_few(
    name: str, scores: dict[str, Any], of_n: dict[str, Any] | None, config: "Config"
) -> dict[str, str]:
    """The N that given answers are too few for, and why."""
    told = of_n["macro"] if of_n else {}
    lacking = [str(n) for n in config.evaluation.best_of_n if str(n) not in told]
    if scores["sampled"] is None or not lacking:
        return {}
    return {f"{name}, best of {', '.join(lacking)},": "some questions have fewer responses"}


def _facts_wanted(stages: "Stages") -> int | None:
    """K of F1@K; of the base's answers it is None until they are examined."""
    k = stages.config.evaluation.f1_k
    if k != "median":
        return k
    base = stages.evaluate(stages.policies()[0]).store
    return facts_wanted(base.rows()) if base.complete else None


def _judged(
    stages: "Stages", name: str, k: int | None, not_scored: dict[str, str]
) -> dict[str, Any]:
    """The systems under a further judge; why one has no score goes to ``not_scored``."""
    evaluation, seed = stages.config.evaluation, stages.config.seed
    systems = {}
    for policy in stages.policies():
        store, first = stages.evaluate(policy, name).store, stages.evaluate(policy).store
        if store.complete and first.complete:
            try:
                systems[policy.name] = score_again(
                    store.rows(), first.rows(), k, evaluation.bootstrap, seed
                )
            except UserError as error:
                not_scored[f"{policy.name} by {name}"] = _unscored(error, store)
    return systems


def _labelled(stages: "Stages", not_scored: dict[str, str]) -> dict[str, Any]:
    """How far every examiner agrees with the people who labelled given answers, by system."""
    config = stages.config
    resamples, seed = config.evaluation.bootstrap, config.seed
    found: dict[str, Any] = {}
    for policy in filter(stages.is_given, stages.policies()):
        stores = {judge: stages.evaluate(policy, judge).store for judge in config.examiners}
        done = {judge: store for judge, store in stores.items() if store.complete}
        answers = stages.answered(policy).rows() if done else ()
        labelled = list(filter(is_labelled, answers))
        for judge, store in done.items() if labelled else ():
            annotation, key = config.examiners[judge], stages.examiner_key(judge)
            try:
                of = against_labels(store.rows(), labelled, resamples, seed)
            except UserError as error:
                not_scored[f"{policy.name} against human labels by {key}"] = _unscored(error, store)
                continue
            found.setdefault(policy.name, {})[key] = annotation.who | of
    return found


def _unscored(error: UserError, store: "StageStore") -> str:
    """Why answers have no score, and why questions did not come so far."""
    return "; ".join(filter(None, (f"{error} in {store.folder}", store.why_rejected())))


def _factscores(stages: "Stages", store: "StageStore") -> dict[str, dict[str, Any]]:
    """FActScore of one system by decoding, or why it has none."""
    evaluation = stages.config.evaluation
    unknown = store.manifest()["counts"]["rejected"].get("unknown_topic", 0)
    rows = list(store.rows())
    found: dict[str, dict[str, Any]] = {}
    for decoding in evaluation.factscore.decodings:
        try:
            score = factscore(
                rows,
                decoding,
                gamma=evaluation.factscore.gamma,
                resamples=evaluation.bootstrap,
                seed=stages.config.seed,
            )
            found[decoding] = score | {"unknown_topics": unknown}
        except UserError as error:
            found[decoding] = {
                "not_scored": f"{error}; {unknown} questions have no page; in {store.folder}"
            }
    return found


def _win_rates(stages: "Stages", not_scored: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Of every system but the base; why one has none goes to ``not_scored``."""
    evaluation, found = stages.config.evaluation, {}
    for policy in stages.policies() if evaluation.win_rate else []:
        if policy == stages.base or not (store := stages.win_rate(policy).store).complete:
            continue
        try:
            found[policy.name] = win_rate(
                store.rows(),
                evaluation.win_rate.length_ratio,
                resamples=evaluation.bootstrap,
                seed=stages.config.seed,
            )
        except UserError as error:
            not_scored[f"{policy.name} against the base"] = _unscored(error, store)
    return found


def _short_forms(stages: "Stages", not_scored: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Of every system by decoding; why one has none goes to ``not_scored``."""
    evaluation, found = stages.config.evaluation, {}
    for policy in stages.policies() if evaluation.short_form else []:
        if not (store := stages.short_form(policy).store).complete:
            continue
        rows = list(store.rows())
        options = {"resamples": evaluation.bootstrap, "seed": stages.config.seed}
        for decoding in evaluation.short_form.decodings:
            try:
                score = short_form_score(rows, decoding, **options)
                found.setdefault(policy.name, {})[decoding] = score
            except UserError as error:
                not_scored[f"{policy.name}, short answers,"] = _unscored(error, store)
    return found


def _count_what_made_pairs(stages: "Stages") -> None:
    """Note with the pairs, by reason, the answers that none could be made of (``left_out``), and
    the pairs that were dropped beside others of their question (``dropped``)."""
    if stages.config.data.weighted:  # of pairs that are given nothing is left out
        return
    starts = {stages.start(*each) for each in _trainings(stages)}
    pairings = ((start, *each) for start in starts for each in stages.pairings(start).items())
    for start, system, pairing in pairings:
        store, annotated = pairing.store, stages.annotate(start).store
        # Counted once: it reads every row.
        if store.complete and annotated.complete and "left_out" not in store.manifest():
            reasons = (reason for row in store.rows(["id", "dropped"]) for reason in row["dropped"])
            store.finish(
                store.manifest()["counts"],
                0.0,
                left_out=count_left_out(annotated.rows(), stages.config.preference_of(system)),
                dropped=dict(Counter(reasons)),
            )


def _tasks(stages: "Stages") -> dict[str, dict[str, Any]]:
    """What lm-evaluation-harness found of every system that is done."""
    done = {policy.name: stages.lm_eval(policy).store for policy in stages.on_tasks()}
    return {
        name: task_figures(store.rows(), stages.config.evaluation.lm_eval.tasks)
        for name, store in done.items()
        if store.complete
    }


def _manifest(store: "StageStore", asks: bool) -> dict[str, Any]:
    """Of a complete stage: with what became of answers; where its annotator asks a model, with what
    was asked and saved; of pairs, with what else was left out."""
    manifest = store.manifest()
    manifest["counts"] |= {k: manifest[k] for k in ("left_out", "dropped") if manifest.get(k)}
    if asks and store.name.partition("-")[0] == "annotate":
        if "calls" not in manifest:  # counted once: it reads every row
            store.finish(manifest["counts"], 0.0, calls=count_calls(store.rows()))
            manifest = store.manifest()
        manifest["counts"] |= manifest["calls"]
    if store.name.partition("-")[0] in ("sample", "answer"):
        if "answers" not in manifest:
            store.finish(manifest["counts"], 0.0, answers=count_answers(store.rows()))
            manifest = store.manifest()
        manifest["counts"] |= manifest["answers"]
    return manifest


def _metrics(store: "StageStore") -> list[dict[str, Any]]:
    if not store.folder.exists("metrics.jsonl"):
        return []
    return [json.loads(line) for line in store.folder.read("metrics.jsonl").splitlines()]


def _examples(stages: "Stages") -> list[dict[str, Any]]:
    """A few pairs for the viewer, of the first system that learns from any."""
    if not _trainings(stages):
        return []
    made = stages.pairings(stages.base).items()
    of_two = (
        p.store for system, p in made if stages.config.preference_of(system).pairs == "best_worst"
    )
    if (store := next(of_two, None)) is None:
        return []
    pairs = telling_pairs(store.rows(), EXAMPLES) if store.complete else []
    if not pairs:
        return []
    tokenizer = load_tokenizer(stages.model_of(stages.base))
    examples = []
    for pair in pairs:
        with suppress(MaskError):  # token ids that were given need not spell a text
            examples.append(with_spans(pair, tokenizer))
    return examples


def telling_pairs(pairs: Iterable[Pair], count: int) -> list[Pair]:
    """The first pairs by id, those before others in which the mask leaves something out: a chosen
    side with an incorrect sentence, a rejected one with a correct."""

    def key(pair: Pair) -> tuple[int, str]:
        verdicts = [
            {is_correct(s["verdict"]) for s in pair[side]["sentences"]}
            for side in ("chosen", "rejected")
        ]
        return -sum(len(kinds) == 2 for kinds in verdicts), pair["id"]

    return heapq.nsmallest(count, pairs, key=key)


def with_spans(pair: Pair, tokenizer: Any) -> dict[str, Any]:
    """The pair with the character span of each token in ``token_spans`` of its sides.

    A side that was cut has fewer tokens than its response: they are held against the text that
    they spell. Where the cut goes through a character, its last span is that character.
    """
    sides = {}
    for name in ("chosen", "rejected"):
        side = pair[name]
        reasoning = side.get("reasoning") or ""
        kept = response_text(tokenizer, side["token_ids"])
        thought, kept = kept[: len(reasoning)], kept[len(reasoning) :]
        spans = token_spans(tokenizer, side["token_ids"], kept, thought)
        sides[name] = {**side, "token_spans": spans}
    return {**pair, **sides}


def _asks(config: "Config") -> bool:
    """Whether anybody was asked for the verdicts of the candidates."""
    return config.annotation is not None and "verdicts" not in config.annotation.needs


def _trainings(stages: "Stages") -> list[tuple[str, int]]:
    """What is trained; nothing where nobody has judged an answer yet."""
    config = stages.config
    return stages.trainings() if config.annotation or config.data.weighted else []
