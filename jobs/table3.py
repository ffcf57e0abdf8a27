"""Table 3: whose answers the pairs are made of. The reference is the policy throughout.

    python jobs/table3.py CONFIG [--other MODEL] [--seeds 0 1 2] [--runs runs/paper] [key=value ...]

the policy               its own answers
another model            the best and the worst of the same number of answers of ``--other``
document for the chosen  the chosen answer written with the document at hand, trained on without it;
                         the rejected one is the policy's own worst, where that is worse

With a model of one's own, the policy itself writes the second kind, from a prompt that holds the
document. The closed world's policy is too small to read: there the answers are the document's own
statements in the wording that the policy has learnt, and the other model is a second policy that
has read another printing of the encyclopedia.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.compare import claim, difference, score
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import (
    ALONE,
    SYSTEM,
    Lab,
    annotate_answers,
    other_model,
    pair_count,
)
from maskdpo_ray.experiments.published import TABLE_3
from maskdpo_ray.experiments.ready_pairs import judged, whole, with_answers
from maskdpo_ray.experiments.results import (
    Result,
    coverage,
    decimal,
    mean_count,
    score_bars,
    with_interval,
)
from maskdpo_ray.pipeline import sample
from maskdpo_ray.preference.ranking import PAPER
from maskdpo_ray.preference.select import NoPair, is_usable, select_pairs
from maskdpo_ray.preference.select import score as sentence_score
from maskdpo_ray.records import Candidate, Question
from maskdpo_ray.stages import Stages
from maskdpo_ray.world.other_policy import build_other_policy
from maskdpo_ray.world.true_answers import true_answer

NO_DOCUMENT = (
    "no training question has a document to write an answer with, which table 3 compares: add a "
    "column document, or name yours in data.columns"
)
WITH_DOCUMENT = {
    "en": "{document}\n\nUsing the text above, answer: {question}",
    "zh": "{document}\n\n请根据以上内容回答：{question}",
}


def of_another_model(lab: Lab, seed: int, own: Stages, other: str | None) -> list[str]:
    """Settings of a run on another model's answers."""
    path = other or str(build_other_policy(Path(own.world.built)))
    changes = (f"model.{key}={json.dumps(value)}" for key, value in other_model(path).items())
    sampled = lab.run(seed, *changes, work=sample)
    rows = sorted(sampled.sample().store.rows(), key=lambda row: row["id"])
    answers = [with_answers(row, *map(whole, row["candidates"])) for row in rows]
    return lab.on_answers(seed, "table3-other", answers)


def with_document(lab: Lab, seed: int, own: Stages) -> list[str]:
    """Settings of a run whose chosen answers were written with the document at hand, and whose
    rejected ones are the policy's own."""
    documented = from_the_world(own, seed) if own.world else sampled_with_document(lab, seed, own)
    both = []
    for row in own.annotate().store.rows():
        try:
            worst = select_pairs(row["candidates"], own.config.preference)[0].worst
        except NoPair:
            continue
        if answers := documented.get(row["id"]):
            both.append(with_answers(row, *answers, whole(row["candidates"][worst])))
    both.sort(key=lambda row: row["id"])
    settings = [*lab.on_answers(seed, "table3-documented", both), "annotation.prune=false"]
    annotated = lab.run(seed, *settings, work=annotate_answers).annotate().store.rows()
    pairs = sorted(
        (pair for row in annotated for pair in documented_pair(row)), key=lambda row: row["id"]
    )
    return lab.on_answers(seed, "table3-document", pairs, labelled=True)


def documented_pair(row: Question) -> list[dict[str, Any]]:
    """The best of the documented answers against the policy's own, the last one; nothing where it
    is not better: an answer that the document made worse is not the rejected one."""
    *documented, own = row["candidates"]
    usable = [answer for answer in documented if is_usable(answer)]
    if not usable or not is_usable(own):
        return []

    def rank(answer: Candidate) -> tuple:
        verdicts = [sentence["verdict"] for sentence in answer["sentences"]]
        return PAPER.as_best(PAPER.tally(verdicts), answer["index"])

    best = max(usable, key=rank)
    if sentence_score(best["sentences"]) <= sentence_score(own["sentences"]):
        return []
    return [judged(row, best, own)]


def from_the_world(own: Stages, seed: int) -> dict[str, list[str]]:
    """One answer a question that states what its document says."""
    random, world = Random(f"with the document {seed}"), Path(own.world.built)
    rows = sorted(own.questions("train").rows(), key=lambda row: row["id"])
    return {row["id"]: [true_answer(row["topic"], row["question"], world, random)] for row in rows}


def sampled_with_document(lab: Lab, seed: int, own: Stages) -> dict[str, list[str]]:
    """The policy's answers to the same questions behind their documents."""

    def asked(row: Question) -> dict[str, str]:
        wording = WITH_DOCUMENT[row["language"]]
        question = wording.format(document=row["document"], question=row["question"])
        kept = {key: row[key] for key in ("id", "topic", "language")}
        return kept | {"question": question}

    rows = [row for row in own.questions("train").rows() if row["document"]]
    if not rows:
        raise UserError(f"data.train: {NO_DOCUMENT}")
    asked_for = sorted(map(asked, rows), key=lambda row: row["id"])
    prompts = lab.asking("train", seed, "table3-prompts", asked_for)
    sampled = lab.run(seed, prompts, work=sample)
    return {
        row["id"]: [whole(answer) for answer in row["candidates"]]
        for row in sampled.sample().store.rows()
    }


def check(lab: Lab, other: str | None) -> None:
    config = lab.read(lab.seeds[0])
    if config.sampling.source == "input":
        raise UserError(
            "sampling.source=input: the answers of data.train would stand for those of the policy "
            "and of the other model alike: set sampling.source=vllm, so that table 3 samples both"
        )
    if config.sampling.endpoint:
        raise UserError(
            "sampling.endpoint: its server has the policy, which would answer for the other model "
            "too: remove it, so that table 3 samples both in the actors"
        )
    if other is not None and other == config.model.path and config.model.revision is None:
        raise UserError(f"--other {other} is the policy (model.path): name another model")
    if config.world:
        return
    if other is None:
        raise UserError("table 3 needs --other: a model whose answers are compared")
    if not any(row["document"] for row in lab.given_questions("train")):
        raise UserError(f"data.train: {NO_DOCUMENT}")


def experiment(lab: Lab, other: str | None) -> Result:
    found: dict[str, list] = {name: [] for name in ("base", *TABLE_3)}
    pairs: dict[str, list[int]] = {name: [] for name in TABLE_3}
    for seed in lab.seeds:
        own = lab.run(seed)
        runs = {
            "the policy": own,
            "another model": lab.run(seed, *of_another_model(lab, seed, own, other), ALONE),
            "document for the chosen": lab.run(seed, *with_document(lab, seed, own), ALONE),
        }
        found["base"].append(lab.outcome(own, "base"))
        for name, stages in runs.items():
            found[name].append(lab.outcome(stages))
            pairs[name].append(pair_count(stages))
    scores = {name: score(of) for name, of in found.items()}
    rows = [["answers of", "pairs", "score", "95 %", "by seed", "sentences", "paper"]]
    for name, of in scores.items():
        paper = {"base": "49.19", **TABLE_3}[name]
        learnt, sentences = mean_count(pairs.get(name, [])), decimal(of.get("sentences"))
        rows.append([name, learnt, *with_interval(of), sentences, paper])
    mine = found["the policy"]
    claims = [
        claim(
            3,
            f"the policy's own answers teach more than {text}",
            difference(mine, found[name]),
            f"{TABLE_3['the policy']} against {TABLE_3[name]}",
        )
        for name, text in (
            ("another model", "another model's"),
            ("document for the chosen", "answers written with the document at hand"),
        )
    ]
    plot = score_bars("Sentence score by whose answers the pairs are made of", scores)
    figures = {
        name: of | ({"pairs": pairs[name]} if name in pairs else {}) for name, of in scores.items()
    }
    title, notes = "Table 3: whose answers", coverage("score", scores)
    return Result("table3", title, rows, figures, claims, plot, notes=notes)


EXPERIMENT = Experiment(
    experiment,
    {"other": {"help": "model to sample from: a folder or hub id"}},
    check,
    systems=(SYSTEM,),
    makes_rows=True,
)

if __name__ == "__main__":
    run_job(__doc__, EXPERIMENT)
