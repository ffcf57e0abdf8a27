"""Table 4: more topics, or more questions of each.

    python jobs/table4.py CONFIG [--seeds 0 1 2] [--runs runs/paper] [section.key=value ...]

Parts of the training questions are nested and drawn by seed; all share the answers, verdicts and
reference of the whole.
"""

from maskdpo_ray.experiments.compare import claim, difference, score
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import SYSTEM, Lab, pair_count
from maskdpo_ray.experiments.parts import some_questions, some_topics
from maskdpo_ray.experiments.published import TABLE_4
from maskdpo_ray.experiments.results import (
    Result,
    coverage,
    decimal,
    mean_count,
    score_bars,
    with_interval,
)

PARTS = {
    "1/3 of the topics": lambda rows, seed: some_topics(rows, 1 / 3, seed),
    "2/3 of the topics": lambda rows, seed: some_topics(rows, 2 / 3, seed),
    "1 question a topic": lambda rows, seed: some_questions(rows, 1, seed),
    "2 questions a topic": lambda rows, seed: some_questions(rows, 2, seed),
}
WHOLE = "everything"


def experiment(lab: Lab) -> Result:
    found: dict[str, list] = {name: [] for name in (*PARTS, WHOLE)}
    sizes: dict[str, list[int]] = {name: [] for name in found}
    for seed in lab.seeds:
        whole = lab.run(seed)
        questions = sorted(whole.questions("train").rows(), key=lambda row: row["id"])
        runs = {WHOLE: whole}
        for number, (name, part) in enumerate(PARTS.items()):
            runs[name] = lab.run_part(seed, f"table4-{number}", part(questions, seed))
        for name, stages in runs.items():
            found[name].append(lab.outcome(stages))
            sizes[name].append(pair_count(stages))
    scores = {name: score(of) for name, of in found.items()}
    rows = [["trained on", "pairs", "score", "95 %", "by seed", "sentences", "paper"]]
    for name, of in scores.items():
        pairs, sentences = mean_count(sizes[name]), decimal(of.get("sentences"))
        rows.append([name, pairs, *with_interval(of), sentences, TABLE_4[name]])
    claims = [
        claim(
            4,
            f"{more} teaches more than {less}",
            difference(found[more], found[less]),
            f"{TABLE_4[more]} against {TABLE_4[less]}",
        )
        for less, more in (
            ("1/3 of the topics", "2/3 of the topics"),
            ("2/3 of the topics", WHOLE),
            ("1/3 of the topics", WHOLE),
            ("1 question a topic", "2 questions a topic"),
            ("2 questions a topic", WHOLE),
            ("1 question a topic", WHOLE),
            # As many questions either way: a third of the topics whole, or a third of each.
            ("1/3 of the topics", "1 question a topic"),
        )
    ]
    plot = score_bars("Sentence score by the part of the training questions", scores)
    figures = {name: of | {"pairs": sizes[name]} for name, of in scores.items()}
    title, notes = "Table 4: more topics or more questions", coverage("score", scores)
    return Result("table4", title, rows, figures, claims, plot, notes=notes)


EXPERIMENT = Experiment(experiment, systems=(SYSTEM,))

if __name__ == "__main__":
    run_job(__doc__, EXPERIMENT)
