"""Table 6: best of N before and after Mask-DPO.

    python jobs/table6.py CONFIG [--samples 16] [--seeds 0 1 2] [--runs runs/paper] [key=value ...]

Every question is answered ``--samples`` times once; the expected best of N is in closed form over
these, for N = 1, 2, 4 and so on, and all of them (256 in the paper). Samples that the annotator
failed on are left out, and a question that has none without failure. One that has fewer than N
counts with the best of those it has: ``short`` in ``table6.json`` says how many, over all seeds.
"""

from collections.abc import Iterable, Sequence

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.best_of_n import expected_best
from maskdpo_ray.evaluation.responses import Responses, read_responses
from maskdpo_ray.experiments.compare import Outcome, claim, difference, score
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import ALONE, Lab
from maskdpo_ray.experiments.published import NOT_TOLD, TABLE_6, against
from maskdpo_ray.experiments.results import Bar, Result, decimal, lines, scored
from maskdpo_ray.records import Question

SYSTEMS = {"before": "base", "after": "mask_dpo"}


def usable_samples(rows: Iterable[Question]) -> list[tuple[str, Responses]]:
    """Of every question its topic, and the samples with a verdict on each sentence."""
    sampled = ((row["topic"], read_responses([row], "sampled")) for row in rows)
    return [(topic, samples[samples.scored]) for topic, samples in sampled]


def short_of(usable: Sequence[tuple[str, Responses]], ns: Sequence[int]) -> dict[int, int]:
    """Questions that have fewer usable samples than N: what they have stands for N."""
    return {n: sum(len(samples) < n for _, samples in usable) for n in ns}


def by_topic(usable: Sequence[tuple[str, Responses]], ns: Sequence[int]) -> dict[int, Outcome]:
    """Expected best of every N, as the outcomes of a system: mean over a topic's questions."""
    parts: dict[int, dict[str, list[float]]] = {n: {} for n in ns}
    for topic, samples in usable:
        for n in ns if len(samples) else ():
            best = expected_best(samples.correct / samples.judged, min(n, len(samples)))
            parts[n].setdefault(topic, []).append(best)
    return {
        n: Outcome({topic: (sum(of), float(len(of))) for topic, of in sorted(each.items())})
        for n, each in parts.items()
    }


def of_the_best(name: str, n: int) -> str:
    """The published best of N against one answer of the same policy."""
    told = TABLE_6[name]
    return f"{told[n]} against {told[1]}" if n in told else NOT_TOLD


def check(lab: Lab, samples: int) -> None:
    if samples < 2:
        raise UserError(f"--samples {samples}: best of N needs at least 2")


def experiment(lab: Lab, samples: int) -> Result:
    ns = sorted({2**power for power in range(samples.bit_length())} | {samples})
    found: dict[str, dict[int, list]] = {name: {n: [] for n in ns} for name in SYSTEMS}
    short = {name: dict.fromkeys(ns, 0) for name in SYSTEMS}
    for seed in lab.seeds:
        stages = lab.run(seed, f"evaluation.samples={samples}", f"evaluation.best_of_n={ns}", ALONE)
        for name, system in SYSTEMS.items():
            usable = usable_samples(lab.annotated(stages, system))
            for n, of in by_topic(usable, ns).items():
                found[name][n].append(of)
            for n, count in short_of(usable, ns).items():
                short[name][n] += count
    scores = {
        name: {n: score(of) | {"short": short[name][n]} for n, of in each.items()}
        for name, each in found.items()
    }
    rows = [["", *(f"N = {n}" for n in ns)]]
    for name, each in scores.items():
        rows.append([name, *(decimal(of["score"]) for of in each.values())])
    for name in SYSTEMS:
        rows.append([f"{name}, paper", *(f"{TABLE_6[name].get(n, ''):}" for n in ns)])
    claims = [
        claim(
            6,
            f"best of {n} is better after Mask-DPO than before",
            difference(found["after"][n], found["before"][n]),
            against(TABLE_6["after"], TABLE_6["before"], n),
        )
        for n in (ns[0], ns[-1])
    ] + [
        claim(
            6,
            f"{name} Mask-DPO, best of {ns[-1]} is better than one answer",
            difference(found[name][ns[-1]], found[name][1]),
            of_the_best(name, ns[-1]),
            trained=False,  # a policy, trained or not, beside itself
        )
        for name in SYSTEMS
    ]
    plot = lines(
        "Expected best of N before and after Mask-DPO",
        ("N", "sentence score, %"),
        {
            name: {n: Bar(name, of["score"], of["ci95"]) for n, of in scored(each).items()}
            for name, each in scores.items()
        },
        log=True,
    )
    figures = {name: {str(n): of for n, of in each.items()} for name, each in scores.items()}
    return Result("table6", "Table 6: best of N", rows, figures, claims, plot)


EXPERIMENT = Experiment(
    experiment,
    {"samples": {"type": int, "default": 16, "help": "sampled answers of a question"}},
    check,
)

if __name__ == "__main__":
    run_job(__doc__, EXPERIMENT)
