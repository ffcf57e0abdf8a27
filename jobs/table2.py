"""Table 2: the same pairs and the same reference, with and without the mask.

    python jobs/table2.py CONFIG [--seeds 0 1 2] [--runs runs/paper] [section.key=value ...]

FActScore (without length penalty) stands beside the sentence score.
"""

from maskdpo_ray.experiments.compare import claim, difference, score
from maskdpo_ray.experiments.job import run_job
from maskdpo_ray.experiments.lab import Lab
from maskdpo_ray.experiments.published import TABLE_2
from maskdpo_ray.experiments.results import Result, score_bars, with_interval

SYSTEMS = {"base": "base", "without mask": "dpo", "with mask": "mask_dpo"}


def experiment(lab: Lab) -> Result:
    found: dict[str, list] = {name: [] for name in SYSTEMS}
    facts: dict[str, list] = {name: [] for name in SYSTEMS}
    for seed in lab.seeds:
        stages = lab.run(seed)
        for name, system in SYSTEMS.items():
            found[name].append(lab.outcome(stages, system))
            facts[name].append(lab.facts(stages, system))
    scores = {name: score(of) for name, of in found.items()}
    facts_scores = {name: score(of) for name, of in facts.items()}
    rows = [["", "score", "95 %", "by seed", "sentences", "correct", "FActScore", "paper"]]
    for name, of in scores.items():
        lengths = [f"{of[key]:.1f}" for key in ("sentences", "correct_sentences")]
        fact = f"{facts_scores[name]['score']:.1f}"
        rows.append([name, *with_interval(of), *lengths, fact, TABLE_2[name]])
    claims = [
        claim(
            2,
            f"from the same pairs, the mask raises the {what}",
            difference(of["with mask"], of["without mask"]),
            f"{TABLE_2['with mask']} against {TABLE_2['without mask']}",
        )
        for what, of in (("sentence score", found), ("FActScore", facts))
    ]
    plot = score_bars("Sentence score with and without the mask", scores)
    figures = {"sentence score": scores, "FActScore": facts_scores}
    return Result("table2", "Table 2: the mask", rows, figures, claims, plot)


if __name__ == "__main__":
    run_job(__doc__, experiment)
