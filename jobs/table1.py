"""Table 1: models and systems under two scores, on two sets of questions.

    python jobs/table1.py CONFIG [--test NAME=FILE ...] [--large NAME] [--facttune-samples 10]
        [--seeds 0 1 2] [--runs runs/paper] [section.key=value ...]

base              and every model, server or file of answers in ``evaluation.models``; ``--large``
                  names the one among them that stands where the paper has the 70B of the family
facttune          as published (Tian et al. 2023): ``--facttune-samples`` answers at temperature 1,
                  every two of a question whose rewards differ, at most 4 a question, vanilla DPO,
                  one epoch: about as many steps as the others take over their fewer pairs. Its
                  supervised fine-tuning beforehand, optional there, is left out
facttune-matched  the best and the worst of the candidates that Mask-DPO has, vanilla DPO, our
                  optimizer: only reward and mask are between it and Mask-DPO
mask_dpo

The reward is FActScore without length penalty: that of ``evaluation.factscore`` where the
configuration has it, or else the sentence score. In the closed world the two prefer the same
answers, and the matched run is vanilla DPO on the pairs of Mask-DPO.

Scores are those of ``data.test`` and of every ``--test``: with ``--test biographies=bio.jsonl`` the
paper's figures stand beside them. In the closed world the biographies are those of its test
questions. The FActScore needs ``evaluation.factscore``, but for the closed world. Every one of
``evaluation.judges`` has a column of its own: training could not learn to please them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.factscore.score import answer_score
from maskdpo_ray.experiments.compare import claim, difference, not_testable, score
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import Lab, annotate_answers, named
from maskdpo_ray.experiments.published import (
    ANAH,
    BIOGRAPHIES,
    FACTS,
    LARGE,
    SENTENCES,
    TABLE_1,
    against,
    by_judge,
)
from maskdpo_ray.experiments.ready_pairs import decided, larger_reward_pairs
from maskdpo_ray.experiments.results import Result, cell, score_bars
from maskdpo_ray.pipeline import stream
from maskdpo_ray.preference.select import is_usable
from maskdpo_ray.preference.select import score as sentence_score
from maskdpo_ray.questions import read_questions, source_of
from maskdpo_ray.stages import Stages

MOST_PAIRS = 4
ALIGNED = "mask_dpo"


@dataclass(frozen=True)
class Sampled:
    """How the answers are drawn that a reward chooses among."""

    candidates: int
    temperature: float
    top_k: int

    def of(self, section: str, count: str) -> list[str]:
        """The settings of a section of the configuration."""
        values = {count: self.candidates, "temperature": self.temperature, "top_k": self.top_k}
        return [f"{section}.{key}={value}" for key, value in values.items()]


def rewarded(lab: Lab, seed: int, drawn: Sampled) -> Iterable[dict[str, Any]]:
    """Training questions whose candidates have a ``reward``; None where an answer has none."""
    config = lab.read(seed)
    if config.evaluation.factscore and not config.world:
        return examined(lab, seed, drawn)
    settings = [*drawn.of("sampling", "candidates"), "annotation.prune=false"]
    annotated = lab.run(seed, *settings, work=annotate_answers)
    return (
        {**row, "candidates": [
            {**c, "reward": sentence_score(c["sentences"]) if is_usable(c) else None}
            for c in row["candidates"]
        ]}
        for row in annotated.annotate().store.rows()
    )  # fmt: skip


def examined(lab: Lab, seed: int, drawn: Sampled) -> Iterable[dict[str, Any]]:
    """The same, the reward told fact by fact. The training questions are answered as test questions
    of a run of their own, which no judge sees."""
    own = lab.run(seed)
    keys = ("id", "topic", "question", "document", "language")
    rows = ({key: row[key] for key in keys} for row in own.questions("train").rows())
    rows = sorted(rows, key=lambda row: row["id"])
    sampling = own.config.sampling
    facts = lab.run(
        seed,
        lab.asking("test", seed, "table1-questions", rows),
        "systems={}",
        "evaluation.factscore.decodings=[sampled]",
        f"evaluation.top_p={sampling.top_p}",
        f"evaluation.max_tokens={sampling.max_tokens}",
        *drawn.of("evaluation", "samples"),
        work=examine_facts,
    )
    return (
        {**row, "document": None, "candidates": [
            {**answer, "reward": answer_score(answer)}
            for answer in row["answers"] if answer["decoding"] == "sampled"
        ]}
        for row in facts.factscore(facts.base).store.rows()
    )  # fmt: skip


def examine_facts(stages: Stages) -> None:
    """Answers of the base to the test questions, fact by fact."""
    base = stages.base
    stream(stages, stages.questions("test"), stages.answer(base), stages.factscore(base))


def best_and_worst(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The pair of the largest and the smallest reward, if they differ."""
    known = [c for c in row["candidates"] if c["reward"] is not None and c["response"]]
    if not known:
        return []
    best, worst = (choose(known, key=lambda c: c["reward"]) for choose in (max, min))
    if best["reward"] == worst["reward"]:
        return []
    return [decided(row, best["response"], worst["response"], row["id"])]


def trained_on(
    lab: Lab,
    seed: int,
    name: str,
    rows: Iterable[dict[str, Any]],
    pairs_of: Callable[[dict[str, Any]], list[dict[str, Any]]],
    changes: str = "",
) -> list[str]:
    """Settings of a run that learns from the pairs of these rows without a mask."""
    pairs = sorted((pair for row in rows for pair in pairs_of(row)), key=lambda pair: pair["id"])
    if not pairs:
        raise UserError(f"{name}: no two answers to a question differ in their reward")
    settings = lab.on_answers(seed, f"table1-{name}", pairs, labelled=True)
    return [*settings, f"systems={{{name}: {{mask: none{changes}}}}}"]


def systems(lab: Lab, seed: int, samples: int) -> dict[str, tuple[list[str], str]]:
    """By the name of a row: the settings of its run, and the system there."""
    config = lab.read(seed)

    def every(row: dict[str, Any]) -> list[dict[str, Any]]:
        return larger_reward_pairs(row, lambda c: c["reward"], MOST_PAIRS, seed)

    rows = rewarded(lab, seed, Sampled(samples, temperature=1.0, top_k=0))
    published = trained_on(lab, seed, "facttune", rows, every, ", epochs: 1")
    matched: tuple[list[str], str] = ([], "dpo")
    if config.evaluation.factscore and not config.world:
        name, sampling = "facttune_matched", config.sampling
        drawn = Sampled(sampling.candidates, sampling.temperature, sampling.top_k)
        rows = rewarded(lab, seed, drawn)
        matched = trained_on(lab, seed, name, rows, best_and_worst), name
    return {
        "base": ([], "base"),
        **{name: ([], name) for name in config.evaluation.models},
        "facttune": (published, "facttune"),
        "facttune-matched": matched,
        ALIGNED: ([], ALIGNED),
    }


def question_sets(lab: Lab, tests: Sequence[str]) -> dict[str, tuple[list[str], Callable]]:
    """By name: the settings that ask these questions, and which of them count."""
    everything = ([], lambda row: True)
    if lab.read(lab.seeds[0]).world:
        return {ANAH: everything, BIOGRAPHIES: ([], lambda row: "biography" in row["question"])}
    given = dict(named("test", text) for text in tests)
    others = {name: ([f"data.test={path}"], lambda row: True) for name, path in given.items()}
    return {ANAH: everything, **others}


def check(lab: Lab, test: Sequence[str], large: str | None, facttune_samples: int) -> None:
    config = lab.read(lab.seeds[0])
    given = [named("test", text)[0] for text in test]
    if config.world and given:
        raise UserError("--test: the world provides the questions")
    if config.world or not config.evaluation.factscore:
        lab.check(["dpo"])  # its pairs are those of the matched FactTune
    if large is not None and large not in config.evaluation.models:
        raise UserError(
            f"--large {large}: evaluation.models has "
            f"{', '.join(config.evaluation.models) or 'no model'}"
        )
    if len({ANAH, *given}) <= len(given):
        raise UserError(f"--test: every set needs a name of its own, and {ANAH!r} is data.test")
    if facttune_samples < 2:
        raise UserError(f"--facttune-samples {facttune_samples}: a pair needs 2")
    for name, (settings, _) in question_sets(lab, test).items():
        try:
            if settings:  # its first row tells whether the set can be read
                next(read_questions(source_of(lab.read(lab.seeds[0], *settings).data, "test")))
        except UserError as error:
            raise UserError(f"--test {name}: {error}") from None


def experiment(lab: Lab, test: Sequence[str], large: str | None, facttune_samples: int) -> Result:
    found: dict[str, dict[tuple[str, str], list]] = {}
    judges = lab.judges
    for seed in lab.seeds:
        lab.run(seed)  # what the others share is made once, for all of its systems
        for name, (settings, system) in systems(lab, seed, facttune_samples).items():
            columns = found.setdefault(name, {})
            for asked, (of_set, of) in question_sets(lab, test).items():
                stages = lab.run(seed, *settings, *of_set)
                sentences = lab.outcome(stages, system, of=of)
                columns.setdefault((SENTENCES, asked), []).append(sentences)
                for judge in judges:
                    judged = lab.outcome(stages, system, of=of, judge=judge)
                    columns.setdefault((by_judge(judge), asked), []).append(judged)
                if lab.tells_facts:
                    facts = lab.facts(stages, system, of)
                    columns.setdefault((FACTS, asked), []).append(facts)
    return result(found, lab.read(lab.seeds[0]).world is not None, large, judges)


def result(
    found: dict[str, dict[tuple[str, str], list]],
    world: bool,
    large: str | None = None,
    judges: Sequence[str] = (),
) -> Result:
    columns = list(found["base"])
    firsts = [column for column in columns if column[0] in (SENTENCES, FACTS)]
    main, last = firsts[0], firsts[-1]
    claimed = dict.fromkeys((main, *((by_judge(judge), main[1]) for judge in judges), last))
    scores = {name: {column: score(of[column]) for column in columns} for name, of in found.items()}
    published = {name: LARGE if name == large else TABLE_1.get(name, {}) for name in found}
    titles = [f"{of}, {asked}" for of, asked in columns]
    told = [column for column in columns if column in LARGE]
    papers = [f"paper: {of}, {asked}" for of, asked in told]
    rows = [["system", *titles, "sentences", *papers]]
    for name, of in scores.items():
        paper = [published[name].get(column, "") for column in told]
        rows.append([name, *map(cell, of.values()), f"{of[main]['sentences']:.1f}", *paper])
    behind = [name for name in found if name != ALIGNED]
    claims = [
        claim(
            1,
            f"Mask-DPO has a higher {of} than {name} on {asked}",
            difference(found[ALIGNED][of, asked], found[name][of, asked]),
            against(published[ALIGNED], published[name], (of, asked)),
        )
        for name in behind
        for of, asked in claimed
        # Of the 70B's FActScore the paper claims nothing: it is the higher one there.
        if (name, of) != (large, FACTS)
    ]
    if world:
        claims.append(
            not_testable(
                1,
                "an aligned small model is ahead of a large one of its family",
                "the closed world has policies of one size",
                "8B 77.53 against 70B 53.44",
            )
        )
    plot = score_bars(
        "Sentence score of the systems of table 1", {name: of[main] for name, of in scores.items()}
    )
    figures = {
        name: {" of ".join(column): each for column, each in of.items()}
        for name, of in scores.items()
    }
    return Result("table1", "Table 1: systems and scores", rows, figures, claims, plot)


EXPERIMENT = Experiment(
    experiment,
    {
        "test": {"action": "append", "default": [], "metavar": "NAME=FILE"},
        "large": {"metavar": "NAME", "help": "of evaluation.models: the paper's 70B"},
        "facttune_samples": {"type": int, "default": 10, "help": "answers a question"},
    },
    check,
    systems=(ALIGNED,),
    makes_rows=True,
)

if __name__ == "__main__":
    run_job(__doc__, EXPERIMENT)
