"""What an annotator's errors do to DPO, to Mask-DPO, and to masks that weigh its confidence.

    python jobs/erring_annotator.py jobs/configs/paper.yaml [--rates 0.05 0.1 0.2] [--seeds 0 1 2]
        [--runs runs/paper] [section.key=value ...]

On the closed world, whose annotator is exact, a set share of its verdicts is turned into the
opposite before pairs are made (``annotation.error_rate``, with a calibrated confidence). Three
systems learn from each of these:

dpo         vanilla DPO on the pairs
hard mask   Mask-DPO
soft mask   Mask-DPO with the confidence of each verdict as the weight of its tokens
            (``preference.weights: confidence``)

All are examined by the exact annotator. The answers are sampled once a seed.
"""

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.compare import claim, difference, score
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import ALONE, Lab
from maskdpo_ray.experiments.published import NOT_TOLD
from maskdpo_ray.experiments.results import Bar, Result, decimal, lines, scored, with_interval

DPO, HARD, SOFT = "dpo", "hard mask", "soft mask"
BOTH = "systems={dpo: {mask: none}, mask_dpo: {mask: sentence}}"
RATES = [0.05, 0.1, 0.2]


def erring(rate: float) -> list[str]:
    """Settings of a run whose pairs are made from verdicts of which this share is wrong."""
    return [f"annotation.error_rate={rate}", "evaluation.annotation={annotator: closed_world}"]


def check(lab: Lab, rates: list[float]) -> None:
    if lab.read(lab.seeds[0]).world is None:
        raise UserError("only the closed world has verdicts that can be made wrong: set world={}")
    for rate in rates:  # an impossible one is told before anything runs
        lab.read(lab.seeds[0], *erring(rate))


def experiment(lab: Lab, rates: list[float]) -> Result:
    rates = sorted({0.0, *rates})
    found: dict[float, dict[str, list]] = {rate: {DPO: [], HARD: [], SOFT: []} for rate in rates}
    for seed in lab.seeds:
        for rate in rates:
            hard = lab.run(seed, *erring(rate), BOTH)
            found[rate][DPO].append(lab.outcome(hard, "dpo"))
            found[rate][HARD].append(lab.outcome(hard))
            if rate:  # where nothing errs nothing is in doubt: the weights are the mask's
                soft = lab.run(seed, *erring(rate), "preference.weights=confidence", ALONE)
                found[rate][SOFT].append(lab.outcome(soft))
            else:
                found[rate][SOFT].append(found[rate][HARD][-1])
    scores = {
        system: {rate: score(of[system]) for rate, of in found.items()}
        for system in (DPO, HARD, SOFT)
    }
    rows = [["system", "wrong verdicts", "score", "95 %", "by seed", "sentences"]]
    for system, by_rate in scores.items():
        for rate, of in by_rate.items():
            cells = [*with_interval(of), decimal(of.get("sentences"))]
            rows.append([system, f"{rate:.0%}", *cells])
    claims = [
        claim(
            "erring annotator",
            f"with {rate:.0%} of the verdicts wrong, the {first} is ahead of {second}",
            difference(found[rate][first], found[rate][second]),
            NOT_TOLD,
        )
        for rate in rates
        for first, second in ((HARD, DPO), (SOFT, HARD))
        if rate or first == HARD
    ]
    plot = lines(
        "Sentence score over the share of wrong verdicts",
        ("wrong verdicts, %", "sentence score, %"),
        {
            system: {
                100 * rate: Bar(system, of["score"], of["ci95"])
                for rate, of in scored(each).items()
            }
            for system, each in scores.items()
        },
    )
    figures = {
        system: {str(rate): of for rate, of in each.items()} for system, each in scores.items()
    }
    return Result("erring", "An annotator that errs", rows, figures, claims, plot, labels=2)


if __name__ == "__main__":
    rates = {"type": float, "nargs": "+", "default": RATES}
    run_job(__doc__, Experiment(experiment, {"rates": rates}, check))
