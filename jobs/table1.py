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
``evaluation.judges`` has a column of its own: training could not learn to please them. An examiner
who reads documents has none for a set of questions without, as biographies often are.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from maskdpo_ray.answers import match, read_answers
from maskdpo_ray.config import Config
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.factscore.score import answer_score
from maskdpo_ray.experiments.compare import claim, difference, not_testable, score
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import Lab, annotate_answers, named, pair_count
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
from maskdpo_ray.experiments.ready_pairs import decided, larger_reward_pairs, whole
from maskdpo_ray.experiments.results import (
    Result,
    cell,
    coverage,
    decimal,
    mean_count,
    score_bars,
)
from maskdpo_ray.pipeline import stream
from maskdpo_ray.preference.select import is_usable
from maskdpo_ray.preference.select import score as sentence_score
from maskdpo_ray.progress import say
from maskdpo_ray.questions import check_disjoint
from maskdpo_ray.stages import Stages

MOST_PAIRS = 4
MATCHED, ALIGNED = "facttune-matched", "mask_dpo"


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


def by_facts(config: Config) -> bool:
    """Whether answers are rewarded fact by fact. If not, the matched FactTune learns from the pairs
    of Mask-DPO: it is the vanilla DPO of table 2."""
    return config.evaluation.factscore is not None and config.world is None


def rewarded(lab: Lab, seed: int, drawn: Sampled) -> Iterable[dict[str, Any]]:
    """Training questions whose candidates have a ``reward``; None where an answer has none."""
    if by_facts(lab.read(seed)):
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
    said = {
        (row["id"], answer["index"]): answer
        for row in facts.answered(facts.base).rows()
        for answer in row["candidates"]
    }
    return (
        {**row, "document": None, "candidates": [
            {**said[row["id"], answer["index"]], "reward": answer_score(answer)}
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
    return [decided(row, whole(best), whole(worst), row["id"])]


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
    if by_facts(config):
        name, sampling = "facttune_matched", config.sampling
        drawn = Sampled(sampling.candidates, sampling.temperature, sampling.top_k)
        rows = rewarded(lab, seed, drawn)
        matched = trained_on(lab, seed, name, rows, best_and_worst), name
    return {
        "base": ([], "base"),
        **{name: ([], name) for name in config.evaluation.models},
        "facttune": (published, "facttune"),
        MATCHED: matched,
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


def without_column(lab: Lab, asked: str, examiners: Sequence[str | None]) -> list[str]:
    """A note on who is not among the examiners of a set of questions."""
    silent = [by_judge(judge) for judge in (None, *lab.judges) if judge not in examiners]
    if not silent:
        return []
    return [f"No {' and no '.join(silent)} on {asked}: no question has a document to judge by."]


def check(lab: Lab, test: Sequence[str], large: str | None, facttune_samples: int) -> None:
    config = lab.read(lab.seeds[0])
    given = [named("test", text)[0] for text in test]
    if config.world and given:
        raise UserError("--test: the world provides the questions")
    if config.sampling.source == "input":
        raise UserError(
            "sampling.source=input: table 1 samples FactTune's answers from the policy, and the "
            "answers of data.train are not its own: set sampling.source=vllm"
        )
    if not by_facts(config):
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
            examiners = lab.examiners(*settings)
            if settings:
                check_set(lab, settings, examiners)
        except UserError as error:
            if not settings:  # data.test itself
                raise
            raise UserError(f"--test {name}: {error}") from None
        for note in without_column(lab, name, examiners):
            say(note)


def check_set(lab: Lab, settings: Sequence[str], examiners: Sequence[str | None]) -> None:
    """Refuse a set of questions that a column could not be made of.

    Raises:
        UserError: it cannot be read, shares a topic with the training questions, nobody could score
            its answers, or a file of answers has none to it.
    """
    if not examiners and not lab.tells_facts:
        raise UserError(
            "no question has a document, which every examiner reads: add a column document, or set "
            "evaluation.factscore"
        )
    rows = list(lab.given_questions("test", *settings))
    check_disjoint(lab.given_questions("train"), rows)
    asked = [(row["id"], row["question"]) for row in rows]
    for model in lab.read(lab.seeds[0]).evaluation.models.values():
        if model.responses:
            match(read_answers(model.responses), asked, model.responses)


Column = tuple[str, str]  # which score, of which questions


def experiment(lab: Lab, test: Sequence[str], large: str | None, facttune_samples: int) -> Result:
    found: dict[str, dict[Column, list]] = {}
    pairs: dict[str, list[int]] = {}
    sets = question_sets(lab, test)
    examiners = {asked: lab.examiners(*settings) for asked, (settings, _) in sets.items()}
    for seed in lab.seeds:
        lab.run(seed)  # what the others share is made once, for all of its systems
        for name, (settings, system) in systems(lab, seed, facttune_samples).items():
            columns = found.setdefault(name, {})
            for asked, (of_set, of) in sets.items():
                stages = lab.run(seed, *settings, *of_set)
                for judge in examiners[asked]:
                    judged = lab.outcome(stages, system, of=of, judge=judge)
                    columns.setdefault((by_judge(judge), asked), []).append(judged)
                if lab.tells_facts:
                    facts = lab.facts(stages, system, of)
                    columns.setdefault((FACTS, asked), []).append(facts)
            if system in stages.config.systems:
                pairs.setdefault(name, []).append(pair_count(stages))
    config = lab.read(lab.seeds[0])
    notes = [note for asked, of in examiners.items() for note in without_column(lab, asked, of)]
    return result(found, pairs, config.world is not None, by_facts(config), large, notes)


def result(
    found: dict[str, dict[Column, list]],
    pairs: dict[str, list[int]],
    world: bool,
    facts: bool,
    large: str | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """The table of the outcomes by system and column.

    Args:
        pairs: by system and seed, of those that are trained.
        facts: answers were rewarded fact by fact.
        notes: of what has no column.
    """
    columns = list(found["base"])
    main = columns[0]
    scores = {name: {column: score(of[column]) for column in columns} for name, of in found.items()}
    published = {name: LARGE if name == large else TABLE_1.get(name, {}) for name in found}
    titles = {column: ", ".join(column) for column in columns}
    told = [column for column in columns if any(column in of for of in published.values())]
    papers = [f"paper: {titles[column]}" for column in told]
    rows = [["system", "pairs", *titles.values(), "sentences", *papers]]
    for name, of in scores.items():
        learnt, sentences = mean_count(pairs.get(name, [])), decimal(of[main].get("sentences"))
        paper = [published[name].get(column, "") for column in told]
        rows.append([name, learnt, *map(cell, of.values()), sentences, *paper])
    left_out = [
        note
        for column, title in titles.items()
        for note in coverage(title, {name: of[column] for name, of in scores.items()})
    ]
    if not facts:
        left_out.append(
            f"{MATCHED} is table 2's run without the mask, where its claims on {ANAH} stand."
        )
    claims = claims_of(found, published, large, facts)
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
        name: ({"pairs": pairs[name]} if name in pairs else {})
        | {" of ".join(column): each for column, each in of.items()}
        for name, of in scores.items()
    }
    title, noted = "Table 1: systems and scores", [*notes, *left_out]
    return Result("table1", title, rows, figures, claims, plot, notes=noted)


def claims_of(
    found: dict[str, dict[Column, list]],
    published: dict[str, dict[Column, str]],
    large: str | None,
    facts: bool,
) -> list[dict[str, Any]]:
    """That Mask-DPO is ahead of every other system: by the first column and what the judges say of
    the same answers, and by the last that is not a judge's."""
    columns = list(found["base"])
    first = [column for column in columns if column[1] == columns[0][1] and column[0] != FACTS]
    *_, last = (column for column in columns if column[0] in (SENTENCES, FACTS))

    def is_claimed(name: str, column: Column) -> bool:
        # Of the 70B's FActScore the paper claims nothing: it is the higher one there.
        if (name, column[0]) == (large, FACTS):
            return False
        # From the same pairs these are the two runs, and the claims, of table 2.
        return facts or (name, column[1]) != (MATCHED, ANAH)

    return [
        claim(
            1,
            f"Mask-DPO has a higher {column[0]} than {name} on {column[1]}",
            difference(found[ALIGNED][column], found[name][column]),
            against(published[ALIGNED], published[name], column),
        )
        for name in found
        for column in dict.fromkeys((*first, last))
        if name != ALIGNED and is_claimed(name, column)
    ]


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
