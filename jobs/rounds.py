"""Two on-policy rounds against one at equal sample budget.

    python jobs/rounds.py jobs/configs/paper.yaml [--seeds 0 1 2] [--runs runs/paper]
        [section.key=value ...]

Every way samples as many answers a training question in all (``sampling.candidates``):

one round               all of them from the base
one round, same steps   the same pairs for twice the epochs: as many optimizer steps as two rounds
two rounds              half of them from the base, half from what the first round made
"""

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.compare import claim, difference, score
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import Lab
from maskdpo_ray.experiments.published import NOT_TOLD
from maskdpo_ray.experiments.results import Result, lengths, score_bars, with_interval

ONE, LONGER, FIRST, TWO = (
    "one round",
    "one round, same steps",
    "first of two rounds",
    "two rounds",
)


def check(lab: Lab) -> None:
    budget = lab.read(lab.seeds[0]).sampling.candidates
    if budget % 2 or budget < 4:
        raise UserError(f"sampling.candidates={budget} has no half to sample in a round")


def experiment(lab: Lab) -> Result:
    found: dict[str, list] = {name: [] for name in ("base", ONE, LONGER, FIRST, TWO)}
    for seed in lab.seeds:
        config = lab.read(seed)
        budget, epochs = config.sampling.candidates, config.training.epochs
        systems = f"systems={{mask_dpo: {{mask: sentence}}, longer: {{epochs: {2 * epochs}}}}}"
        one = lab.run(seed, systems)
        half = f"sampling.candidates={budget // 2}"
        two = lab.run(seed, half, "systems={two_rounds: {}}", "rounds=2")
        for name, stages, system in (
            ("base", one, "base"),
            (ONE, one, "mask_dpo"),
            (LONGER, one, "longer"),
            (FIRST, two, "two_rounds"),
            (TWO, two, "two_rounds-round2"),
        ):
            found[name].append(lab.outcome(stages, system))
    scores = {name: score(of) for name, of in found.items()}
    rows = [["", "score", "95 %", "by seed", "sentences", "correct"]]
    for name, of in scores.items():
        rows.append([name, *with_interval(of), *lengths(of)])
    claims = [
        claim(
            "rounds",
            f"two rounds are ahead of {name}",
            difference(found[TWO], found[name]),
            NOT_TOLD,
        )
        for name in (ONE, LONGER, FIRST)
    ]
    plot = score_bars("Sentence score by rounds", scores)
    return Result("rounds", "Rounds at equal sample budget", rows, scores, claims, plot)


if __name__ == "__main__":
    run_job(__doc__, Experiment(experiment, check=check))
