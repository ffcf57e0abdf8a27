"""`maskdpo topics` against topics at random, at equal budget.

    python jobs/topic_choice.py CONFIG [--share 0.25] [--diversity 0.3] [--seeds 0 1 2]
        [--runs runs/paper] [section.key=value ...]

Of the training topics a ``--share`` is trained on, all cut to equally many pairs:

nearest   to the test topics in the policy's own embedding (docs/topics.md)
diverse   the same with ``--diversity``
random    by seed

Answers and verdicts of all topics are shared, so the experiment can follow a finished run.
"""

from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.compare import claim, difference, score
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import SYSTEM, Lab
from maskdpo_ray.experiments.parts import equally_many, paired_questions, some_topics
from maskdpo_ray.experiments.published import NOT_TOLD
from maskdpo_ray.experiments.results import Result, decimal, score_bars, with_interval
from maskdpo_ray.stages import Stages
from maskdpo_ray.topics.choose import choose
from maskdpo_ray.topics.distance import to_nearest
from maskdpo_ray.topics.embedding import ModelEmbedding
from maskdpo_ray.topics.pool import gathered

NEAREST, DIVERSE, RANDOM = "nearest", "diverse", "random"


def choices(whole: Stages, seed: int, share: float, diversity: float) -> dict[str, set[str]]:
    """Ids of the questions that each way chooses."""
    rows = list(whole.questions("train").rows())
    pool, targets = gathered(rows), gathered(whole.questions("test").rows())
    with ModelEmbedding(whole.model_of(whole.base), "mean") as embedding:
        vectors, of_targets = (
            embedding.vectors([topic.name for topic in topics]) for topics in (pool, targets)
        )
    keys, distances = [topic.key for topic in pool], to_nearest(vectors, of_targets)[0]
    budget = max(1, round(share * len(pool)))
    found = {
        name: {
            row["id"]
            for index in choose(keys, vectors, distances, budget, of)
            for row in pool[index].questions
        }
        for name, of in ((NEAREST, 0.0), (DIVERSE, diversity))
    }
    return {**found, RANDOM: {row["id"] for row in some_topics(rows, share, seed)}}


def check(lab: Lab, share: float, diversity: float) -> None:
    if not 0 < share < 1:
        raise UserError(f"--share {share:g}: a part of the topics is between 0 and 1")
    if not 0 < diversity <= 1:
        raise UserError(f"--diversity {diversity:g}: above 0, and 1 at most")


def experiment(lab: Lab, share: float, diversity: float) -> Result:
    found: dict[str, list] = {NEAREST: [], DIVERSE: [], RANDOM: []}
    for seed in lab.seeds:
        whole = lab.run(seed)
        paired = paired_questions(whole.pair().store.rows())
        chosen = choices(whole, seed, share, diversity)
        parts = [[paired[i] for i in sorted(ids & paired.keys())] for ids in chosen.values()]
        for name, part in zip(chosen, equally_many(parts, seed), strict=True):
            found[name].append(lab.outcome(lab.run_part(seed, f"topics-{name}", part)))
    scores = {name: score(of) for name, of in found.items()}
    rows = [["topics", "score", "95 %", "by seed", "sentences"]]
    for name, of in scores.items():
        rows.append([name, *with_interval(of), decimal(of.get("sentences"))])
    claims = [
        claim(
            "topics",
            f"{share:.0%} of the topics teach more chosen as {first} than as {second}",
            difference(found[first], found[second]),
            NOT_TOLD,
        )
        for first, second in ((NEAREST, RANDOM), (DIVERSE, RANDOM), (DIVERSE, NEAREST))
    ]
    plot = score_bars(f"Sentence score by how {share:.0%} of the topics are chosen", scores)
    return Result("topics", "The choice of training topics", rows, scores, claims, plot)


OPTIONS = {
    "share": {"type": float, "default": 0.25, "help": "of the training topics"},
    "diversity": {"type": float, "default": 0.3, "help": "of the second way"},
}

if __name__ == "__main__":
    run_job(__doc__, Experiment(experiment, OPTIONS, check, systems=(SYSTEM,)))
