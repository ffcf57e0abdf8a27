"""Table 6: best of N before and after Mask-DPO.

    python jobs/table6.py CONFIG [--samples 16] [--seeds 0 1 2] [--runs runs/paper] [key=value ...]

Every question is answered ``--samples`` times once; the expected best of N is in closed form over
these, for N = 1, 2, 4 and so on up to all of them (256 in the paper).
"""

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.best_of_n import best_of_n
from maskdpo_ray.experiments.compare import Outcome, claim, difference, score
from maskdpo_ray.experiments.job import run_job
from maskdpo_ray.experiments.lab import ALONE, Lab
from maskdpo_ray.experiments.published import TABLE_6
from maskdpo_ray.experiments.results import Bar, Result, lines

SYSTEMS = {"before": "base", "after": "mask_dpo"}


def by_topic(rows: list, n: int) -> Outcome:
    """Expected best of N of each topic, as the outcome of a system."""
    topics: dict[str, list] = {}
    for row in rows:
        topics.setdefault(row["topic"], []).append(row)
    means = {
        topic: best_of_n(of, [n], resamples=1)["macro"][str(n)] for topic, of in topics.items()
    }
    parts = {topic: (means[topic] * len(of) / 100, float(len(of))) for topic, of in topics.items()}
    return Outcome(parts)


def experiment(lab: Lab, samples: int = 16) -> Result:
    if samples < 2:
        raise UserError(f"--samples {samples}: best of N needs at least 2")
    ns = [2**power for power in range(samples.bit_length()) if 2**power <= samples]
    found: dict[str, dict[int, list]] = {name: {n: [] for n in ns} for name in SYSTEMS}
    for seed in lab.seeds:
        stages = lab.run(seed, f"evaluation.samples={samples}", f"evaluation.best_of_n={ns}", ALONE)
        for name, system in SYSTEMS.items():
            rows = list(lab.annotated(stages, system))
            for n in ns:
                found[name][n].append(by_topic(rows, n))
    scores = {name: {n: score(of) for n, of in each.items()} for name, each in found.items()}
    rows = [["", *(f"N = {n}" for n in ns)]]
    for name, each in scores.items():
        rows.append([name, *(f"{of['score']:.1f}" for of in each.values())])
    for name in SYSTEMS:
        rows.append([f"{name}, paper", *(f"{TABLE_6[name].get(n, ''):}" for n in ns)])
    claims = [
        claim(
            6,
            f"best of {n} is better after Mask-DPO than before",
            difference(found["after"][n], found["before"][n]),
            f"{TABLE_6['after'].get(n, 'not told')} against {TABLE_6['before'].get(n, 'not told')}",
        )
        for n in (ns[0], ns[-1])
    ] + [
        claim(
            6,
            f"{name} Mask-DPO, best of {ns[-1]} is better than one answer",
            difference(found[name][ns[-1]], found[name][1]),
            f"{TABLE_6[name][256]} of 256 against {TABLE_6[name][1]}",
        )
        for name in SYSTEMS
    ]
    plot = lines(
        "Expected best of N before and after Mask-DPO",
        ("N", "sentence score, %"),
        {
            name: {n: Bar(name, of["score"], of["ci95"]) for n, of in each.items()}
            for name, each in scores.items()
        },
        log=True,
    )
    figures = {name: {str(n): of for n, of in each.items()} for name, each in scores.items()}
    return Result("table6", "Table 6: best of N", rows, figures, claims, plot)


if __name__ == "__main__":
    run_job(
        __doc__,
        experiment,
        samples={"type": int, "default": 16, "help": "sampled answers of a question"},
    )
