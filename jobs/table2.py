"""Table 2: the same pairs and the same reference, with and without the mask.

    python jobs/table2.py CONFIG [--seeds 0 1 2] [--runs runs/paper] [section.key=value ...]

FActScore (without length penalty) stands beside the sentence score: that of
``evaluation.factscore``, or in the closed world that of sentences, which state one fact each. So
does the sentence score by every one of ``evaluation.judges``, whom training could not learn to
please.
"""

from functools import partial

from maskdpo_ray.experiments.compare import claim, difference, score
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import Lab
from maskdpo_ray.experiments.published import FACTS, SENTENCES, TABLE_2, against, by_judge
from maskdpo_ray.experiments.results import (
    Result,
    cell,
    coverage,
    lengths,
    score_bars,
    with_interval,
)

SYSTEMS = {"base": "base", "without mask": "dpo", "with mask": "mask_dpo"}


def experiment(lab: Lab) -> Result:
    examined = {
        SENTENCES: lab.outcome,
        **{by_judge(judge): partial(lab.outcome, judge=judge) for judge in lab.judges},
        **({FACTS: lab.facts} if lab.tells_facts else {}),
    }
    found: dict[str, dict[str, list]] = {of: {name: [] for name in SYSTEMS} for of in examined}
    for seed in lab.seeds:
        stages = lab.run(seed)
        for of, examine in examined.items():
            for name, system in SYSTEMS.items():
                found[of][name].append(examine(stages, system))
    scores = {of: {name: score(each) for name, each in by.items()} for of, by in found.items()}
    more = [of for of in scores if of != SENTENCES]
    told = [of for of in scores if of in (SENTENCES, FACTS)]
    papers = [f"paper: {of}" for of in told]
    rows = [["", "score", "95 %", "by seed", "sentences", "correct", *more, *papers]]
    for name, of in scores[SENTENCES].items():
        facts = [cell(scores[each][name]) for each in more]
        paper = [TABLE_2[name].get(each, "") for each in told]
        rows.append([name, *with_interval(of), *lengths(of), *facts, *paper])
    claims = [
        claim(
            2,
            f"from the same pairs, the mask raises the {of}",
            difference(by["with mask"], by["without mask"]),
            against(TABLE_2["with mask"], TABLE_2["without mask"], of),
        )
        for of, by in found.items()
    ]
    plot = score_bars("Sentence score with and without the mask", scores[SENTENCES])
    notes = [note for of, by in scores.items() for note in coverage(of, by)]
    return Result("table2", "Table 2: the mask", rows, scores, claims, plot, notes=notes)


EXPERIMENT = Experiment(experiment, systems=("dpo", "mask_dpo"))

if __name__ == "__main__":
    run_job(__doc__, EXPERIMENT)
