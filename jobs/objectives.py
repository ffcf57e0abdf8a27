"""Objectives side by side: what each gains, and what it loses of what the base said right.

    python jobs/objectives.py jobs/configs/paper.yaml [--seeds 0 1 2] [--runs runs/objectives]
        [--only NAME ...] [--steps 39] [--samples 4] [section.key=value ...]

Every objective learns from the same sampled answers and their verdicts, in equally many optimizer
steps. ``objectives.json`` is a list, one entry an objective; means over the seeds, counts a seed:

setting, seeds, recommended   its name; the seeds; whether ``docs/objectives.md`` recommends it
greedy, sampled               sentence score in percent, with ``NAME_ci95`` over topics
correct, incorrect            sentences of the greedy answers
sentences, f1                 sentences a greedy answer, F1@K with K the base's median, in percent
sampled_correct, ...          the same of the sampled answers, for one answer a question
base                          the same of the policy that training started from
gain, gain_ci95               points of ``greedy`` over the base; ``correct_gain`` in percent

Settings are chosen with ``world.evaluate_on=validation`` and another ``--runs``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.f1_at_k import f1_of_answers, median_facts
from maskdpo_ray.evaluation.responses import Responses, read_responses
from maskdpo_ray.experiments.compare import Outcome, claim, difference, score, sentence_parts
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import SYSTEM, Lab
from maskdpo_ray.experiments.published import NOT_TOLD
from maskdpo_ray.experiments.results import Result, score_bars
from maskdpo_ray.records import Question
from maskdpo_ray.report.table import NO_INTERVAL

STEPS, SAMPLES = 39, 4
BASE, GREEDY, SAMPLED = "base", "greedy", "sampled"


@dataclass(frozen=True)
class Objective:
    """What a run changes, beside what all runs share.

    Attributes:
        pairs: settings of the ``preference`` section.
        loss: of the ``training`` section.
        rate: times the configuration's learning rate, which is that of the paper's objective.
    """

    pairs: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    recommended: bool = False


PAPER = "the paper's"
TRIMMED = {"trim_chosen": True}
ANCHOR = {"anchor": "reference", "anchor_weight": 1.0}
BOUND = {"rejected_floor": 2.0, "rejected_floor_per": "token"}
ADAPTERS = {"lora": {"rank": 8, "alpha": 16}}
ADAPTERS_RATE = 20 / 3  # adapters want a higher one
OBJECTIVES: dict[str, Objective] = {
    "DPO": Objective(loss={"mask": "none"}),
    PAPER: Objective(),
    "F1@K": Objective({"select": "f1@k"}),
    "net": Objective({"select": "net"}),
    "trimmed": Objective(TRIMMED),
    "NLL of the chosen answer": Objective(loss={"nll_weight": 1.0}),
    "NLL of correct sentences": Objective(loss={"anchor_weight": 1.0}),
    "anchored": Objective(loss=ANCHOR),
    "adapters": Objective(loss=ADAPTERS, rate=ADAPTERS_RATE),
    "adapters, trimmed": Objective(TRIMMED, ADAPTERS, ADAPTERS_RATE),
    "adapters, anchored, bounded": Objective({}, ADAPTERS | ANCHOR | BOUND, ADAPTERS_RATE),
    "adapters, trimmed, anchored": Objective(TRIMMED, ADAPTERS | ANCHOR, ADAPTERS_RATE),
    "adapters, trimmed, anchored, bounded": Objective(
        TRIMMED, ADAPTERS | ANCHOR | BOUND, ADAPTERS_RATE, recommended=True
    ),
    "net, adapters, trimmed, anchored, bounded": Objective(
        {"select": "net"} | TRIMMED, ADAPTERS | ANCHOR | BOUND, ADAPTERS_RATE
    ),
}

Parts = tuple[np.ndarray, np.ndarray]
# Numerators and denominators of every answer. Answers without a sentence count with nothing in
# them, but for the score, as everywhere.
MEASURES: dict[str, Callable[[Responses, int], Parts]] = {
    "score": lambda of, k: sentence_parts(of[of.scored]),
    "correct": lambda of, k: (of.correct, np.ones(len(of))),
    "incorrect": lambda of, k: (of.incorrect, np.ones(len(of))),
    "sentences": lambda of, k: (of.judged, np.ones(len(of))),
    "f1": lambda of, k: (f1_of_answers(of, k), np.ones(len(of))),
}
Measured = dict[str, dict[str, Outcome]]  # decoding -> measure -> what came out, a seed


def measured(rows: Sequence[Question], k: int) -> Measured:
    """Every measure of the answers of a system, under both decodings.

    Args:
        rows: annotated test questions.
        k: facts that a reader wants of an answer.
    """
    topics: dict[str, list[Question]] = {}
    for row in rows:
        topics.setdefault(row["topic"], []).append(row)
    return {
        decoding: {
            name: Outcome(
                {
                    topic: (float(over.sum()), float(under.sum()))
                    for topic, of in sorted(topics.items())
                    for over, under in [parts(read_responses(of, decoding), k)]
                    if len(under)
                }
            )
            for name, parts in MEASURES.items()
        }
        for decoding in (GREEDY, SAMPLED)
    }


def figures(found: Sequence[Measured], questions: float) -> dict[str, Any]:
    """The keys of an entry that a system has for itself.

    Args:
        found: of every seed.
        questions: mean over the seeds.
    """
    means = {
        decoding: {name: score([seed[decoding][name] for seed in found]) for name in MEASURES}
        for decoding in (GREEDY, SAMPLED)
    }
    entry: dict[str, Any] = {}
    for decoding, of in means.items():
        prefix = "" if decoding == GREEDY else "sampled_"
        entry[decoding] = of["score"]["score"]
        entry[f"{decoding}_ci95"] = of["score"]["ci95"]
        entry[f"{decoding}_by_seed"] = of["score"]["by_seed"]
        for name in ("correct", "incorrect"):
            entry[f"{prefix}{name}"] = of[name]["score"] / 100 * questions
        entry[f"{prefix}sentences"] = of["sentences"]["score"] / 100
        entry[f"{prefix}f1"] = of["f1"]["score"]
    return entry


def gains(found: Sequence[Measured], base: Sequence[Measured]) -> dict[str, Any]:
    """Points ahead of the base, and correct sentences of a hundred answers, by decoding."""
    entry: dict[str, Any] = {}
    for decoding in (GREEDY, SAMPLED):
        prefix = "" if decoding == GREEDY else "sampled_"
        for name, key in (("score", "gain"), ("correct", "correct_per_100_gain")):
            over = difference(
                [seed[decoding][name] for seed in found], [seed[decoding][name] for seed in base]
            )
            entry[f"{prefix}{key}"], entry[f"{prefix}{key}_ci95"] = over["points"], over["ci95"]
    return entry


def chosen(only: Sequence[str] | None) -> dict[str, Objective]:
    """The objectives of these names, in the order in which they stand here; all by default."""
    names = only or list(OBJECTIVES)
    if unknown := [name for name in names if name not in OBJECTIVES]:
        raise UserError(f"--only {unknown[0]!r} is none of {', '.join(map(repr, OBJECTIVES))}")
    return {name: of for name, of in OBJECTIVES.items() if name in names}


def settings_of(lab: Lab, objective: Objective, steps: int, samples: int) -> list[str]:
    """Of a run: it ends after ``steps``, however few pairs an epoch has."""
    rate = objective.rate * lab.read(lab.seeds[0]).training.learning_rate
    bound = {"learning_rate": rate, "max_steps": steps, "epochs": steps}
    loss = {"mask": "sentence", **bound, **objective.loss}
    return [
        f"evaluation.samples={samples}",
        f"systems={json.dumps({SYSTEM: loss})}",
        *(f"preference.{key}={json.dumps(value)}" for key, value in objective.pairs.items()),
    ]


def check(lab: Lab, only: Sequence[str] | None, steps: int, samples: int) -> None:
    for objective in chosen(only).values():  # a wrong setting is told before anything runs
        lab.read(lab.seeds[0], *settings_of(lab, objective, steps, samples))


def experiment(lab: Lab, only: Sequence[str] | None, steps: int, samples: int) -> Result:
    objectives = chosen(only)
    found: dict[str, list[Measured]] = {name: [] for name in (BASE, *objectives)}
    questions: list[int] = []
    for seed in lab.seeds:
        k = None
        for name, objective in objectives.items():
            stages = lab.run(seed, *settings_of(lab, objective, steps, samples))
            if k is None:
                rows = list(lab.annotated(stages, BASE))
                k = median_facts(read_responses(rows, GREEDY))
                questions.append(len(rows))
                found[BASE].append(measured(rows, k))
            found[name].append(measured(list(lab.annotated(stages, SYSTEM)), k))
    return result(found, float(np.mean(questions)), objectives, lab.seeds)


def cells(entry: Mapping[str, Any]) -> list[str]:
    """A row of the table."""

    def interval(key: str) -> str:
        return "{:.1f} to {:.1f}".format(*entry[key]) if entry[key] else NO_INTERVAL

    return [
        entry["setting"],
        f"{entry['greedy']:.1f}",
        interval("greedy_ci95"),
        f"{entry['correct']:.0f}",
        f"{entry['incorrect']:.0f}",
        f"{entry['sentences']:.2f}",
        f"{entry['f1']:.1f}",
        f"{entry['sampled']:.1f}",
        interval("sampled_ci95"),
        f"{entry['sampled_correct']:.0f}",
        f"{entry['sampled_sentences']:.2f}",
    ]


def result(
    found: Mapping[str, Sequence[Measured]],
    questions: float,
    objectives: Mapping[str, Objective],
    seeds: Sequence[int],
) -> Result:
    """The table, its claims and the entries of ``objectives.json``.

    Args:
        found: of the base and of every objective, by seed.
        questions: asked in a seed.
    """
    base = figures(found[BASE], questions)
    entries = [
        {
            "setting": name,
            "pairs": dict(objective.pairs),
            "loss": dict(objective.loss),
            "rate": objective.rate,
            "seeds": list(seeds),
            **figures(found[name], questions),
            **gains(found[name], found[BASE]),
            "base": base,
            "recommended": objective.recommended,
        }
        for name, objective in objectives.items()
    ]
    header = ["", "greedy", "95 %", "correct", "incorrect", "sentences", "F1@K"]
    rows = [[*header, "sampled", "95 %", "correct", "sentences"]]
    rows += [cells(entry) for entry in ({"setting": BASE, **base}, *entries)]
    claims = [
        claim(
            "objectives",
            f"{name}: {what} {decoding} answers {verb} than the base's",
            difference(
                [seed[decoding][measure] for seed in found[name]],
                [seed[decoding][measure] for seed in found[BASE]],
            ),
            NOT_TOLD,
        )
        for name in objectives
        for decoding in (GREEDY, SAMPLED)
        for measure, what, verb in (
            ("score", "the share of correct sentences of", "is larger"),
            ("correct", "the correct sentences of a hundred", "are more"),
        )
    ]
    plot = score_bars(
        "Sentence score by objective",
        {name: score([seed[GREEDY]["score"] for seed in of]) for name, of in found.items()},
    )
    return Result("objectives", "Objectives", rows, {}, claims, plot, entries=entries)


OPTIONS = {
    "only": {"nargs": "+", "metavar": "NAME", "type": str, "help": "objectives; all by default"},
    "steps": {"type": int, "default": STEPS, "help": "optimizer steps of every training"},
    "samples": {"type": int, "default": SAMPLES, "help": "sampled answers of a question"},
}
EXPERIMENT = Experiment(experiment, OPTIONS, check)

if __name__ == "__main__":
    run_job(__doc__, EXPERIMENT)
