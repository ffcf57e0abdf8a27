"""Table 1: base, FactTune, vanilla DPO and Mask-DPO under two scores, on two sets of questions.

    python jobs/table1.py CONFIG [--seeds 0 1 2] [--runs runs/paper] [section.key=value ...]

facttune          as published (Tian et al. 2023): every two answers of a question whose rewards
                  differ, at most 4 a question, vanilla DPO, one epoch: about as many steps as the
                  others take over their fewer pairs
facttune-matched  the best and the worst answer alone, vanilla DPO, our optimizer: only reward and
                  mask are between it and Mask-DPO

The reward is FActScore without length penalty: that of ``evaluation.factscore`` where the
configuration has it, or else each sentence is taken for one fact, as in the closed world, where
both scores are exact and the matched run is vanilla DPO on the same pairs. Test questions are all
of them, and those that ask for a biography.
"""

from collections.abc import Iterable
from typing import Any

from maskdpo_ray.evaluation.factscore.score import answer_score
from maskdpo_ray.experiments.compare import claim, difference, not_testable, score
from maskdpo_ray.experiments.job import run_job
from maskdpo_ray.experiments.lab import Lab
from maskdpo_ray.experiments.published import TABLE_1
from maskdpo_ray.experiments.ready_pairs import decided, larger_reward_pairs
from maskdpo_ray.experiments.results import Result, score_bars
from maskdpo_ray.preference.select import is_usable
from maskdpo_ray.preference.select import score as sentence_score
from maskdpo_ray.stages import Stages

MOST_PAIRS = 4
SENTENCES, FACTS = "sentence score", "FActScore"
SETS = {
    "all questions": lambda row: True,
    "biographies": lambda row: "biography" in row["question"].lower(),
}


def rewarded(lab: Lab, seed: int, own: Stages) -> list[dict[str, Any]]:
    """Training questions whose candidates have a ``reward``; None where an answer has none."""
    if own.config.evaluation.factscore is None:
        return [
            {**row, "candidates": [
                {**c, "reward": sentence_score(c["sentences"]) if is_usable(c) else None}
                for c in row["candidates"]
            ]}
            for row in sorted(own.annotate().store.rows(), key=lambda row: row["id"])
        ]  # fmt: skip
    examined = examined_candidates(lab, seed, own)
    return [
        {**row, "document": None, "candidates": [
            {**answer, "reward": answer_score(answer)}
            for answer in row["answers"] if answer["decoding"] == "sampled"
        ]}
        for row in sorted(examined.factscore(examined.base).store.rows(), key=lambda r: r["id"])
    ]  # fmt: skip


def examined_candidates(lab: Lab, seed: int, own: Stages) -> Stages:
    """A run that examines as many sampled answers to the training questions fact by fact."""
    keys = ("id", "topic", "question", "document", "language")
    rows = [{key: row[key] for key in keys} for row in own.questions("train").rows()]
    sampling = own.config.sampling
    decoding = [
        f"evaluation.{key}={getattr(sampling, key)}"
        for key in ("temperature", "top_k", "top_p", "max_tokens")
    ]
    return lab.run(
        seed,
        f"data.test={lab.write(seed, 'table1-questions', rows)}",
        "systems={}",
        f"evaluation.samples={sampling.candidates}",
        "evaluation.best_of_n=[1]",
        *decoding,
    )


def trained_on(lab: Lab, seed: int, name: str, pairs: Iterable[dict], settings: str) -> Stages:
    """A run that learns from these pairs without a mask."""
    path = lab.write(seed, f"table1-{name}", pairs)
    system = f"systems={{{name}: {{mask: none{settings}}}}}"
    return lab.run(seed, *lab.on_answers(seed, path, labelled=True), system)


def best_and_worst(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The pair of the largest and the smallest reward, if they differ."""
    known = [c for c in row["candidates"] if c["reward"] is not None and c["response"]]
    if not known:
        return []
    best, worst = (choose(known, key=lambda c: c["reward"]) for choose in (max, min))
    if best["reward"] == worst["reward"]:
        return []
    return [decided(row, best["response"], worst["response"], row["id"])]


def experiment(lab: Lab) -> Result:
    found: dict[str, dict[tuple[str, str], list]] = {}
    for seed in lab.seeds:
        both = lab.run(seed)
        rows = rewarded(lab, seed, both)
        every = (
            pair
            for row in rows
            for pair in larger_reward_pairs(row, lambda c: c["reward"], MOST_PAIRS, seed)
        )
        all_pairs = trained_on(lab, seed, "facttune", every, ", epochs: 1")
        matched, of_matched = both, "dpo"
        if both.config.evaluation.factscore:
            of_matched = "facttune_matched"
            matched = trained_on(lab, seed, of_matched, sum(map(best_and_worst, rows), []), "")
        for name, stages, system in (
            ("base", both, "base"),
            ("facttune", all_pairs, "facttune"),
            ("facttune-matched", matched, of_matched),
            ("mask_dpo", both, "mask_dpo"),
        ):
            columns = found.setdefault(name, {})
            for asked, of in SETS.items():
                sentences = lab.outcome(stages, system, of=of)
                columns.setdefault((SENTENCES, asked), []).append(sentences)
                columns.setdefault((FACTS, asked), []).append(lab.facts(stages, system, of))
    return result(found, large_ones=not both.world)


def result(found: dict[str, dict[tuple[str, str], list]], large_ones: bool) -> Result:
    columns = list(found["base"])
    main, last = columns[0], columns[-1]
    rows = [["system", *(f"{of}, {asked}" for of, asked in columns), "sentences", "paper"]]
    for name, of in found.items():
        cells = [f"{score(of[column])['score']:.1f}" for column in columns]
        rows.append([name, *cells, f"{score(of[main])['sentences']:.1f}", TABLE_1[name]])
    claims = [
        claim(
            1,
            f"Mask-DPO has a higher {of} than {name} on {asked}",
            difference(found["mask_dpo"][of, asked], found[name][of, asked]),
            f"{TABLE_1['mask_dpo']} against {TABLE_1[name]}",
        )
        for name in ("base", "facttune", "facttune-matched")
        for of, asked in (main, last)
    ]
    if not large_ones:
        claims.append(
            not_testable(
                1,
                "an aligned small model is ahead of a large one of its family",
                "the closed world has policies of one size",
                "8B 77.53 against 70B 53.44",
            )
        )
    plot = score_bars(
        "Sentence score of the systems of table 1",
        {name: score(of[main]) for name, of in found.items()},
    )
    figures = {name: {" of ".join(c): score(of[c]) for c in columns} for name, of in found.items()}
    return Result("table1", "Table 1: systems and scores", rows, figures, claims, plot)


if __name__ == "__main__":
    run_job(__doc__, experiment)
