"""Table 1: base, FactTune, vanilla DPO and Mask-DPO under two scores, on two sets of questions.

    python jobs/table1.py CONFIG [--seeds 0 1 2] [--runs runs/paper] [section.key=value ...]

facttune          as published (Tian et al. 2023): every two answers of a question whose rewards
                  differ, at most 4 a question, vanilla DPO, one epoch: about as many steps as the
                  others take over their fewer pairs
facttune-matched  the best and the worst answer alone, vanilla DPO, our optimizer: only the mask is
                  between it and Mask-DPO

The reward of an answer is its share of correct facts, as the annotator of the configuration sees
its sentences. Test questions are all of them, and those that ask for a biography. The scores are
the sentence score, and FActScore without length penalty; in the closed world every sentence states
one fact or none, so both are exact.
"""

from maskdpo_ray.experiments.compare import claim, difference, fact_parts, score, sentence_parts
from maskdpo_ray.experiments.lab import Lab, lab_of_arguments
from maskdpo_ray.experiments.published import TABLE_1
from maskdpo_ray.experiments.ready_pairs import larger_reward_pairs
from maskdpo_ray.experiments.results import Bar, Result, bars
from maskdpo_ray.preference.select import is_usable
from maskdpo_ray.preference.select import score as reward_of
from maskdpo_ray.records import Candidate, Question

MOST_PAIRS = 4  # of one question, so that both kinds of FactTune see answers of every question
SCORES = {"sentence score": sentence_parts, "FActScore": fact_parts}
SETS = {
    "all questions": lambda row: True,
    "biographies": lambda row: "biography" in row["question"].lower(),
}


def reward(candidate: Candidate) -> float | None:
    return reward_of(candidate["sentences"]) if is_usable(candidate) else None


def facttune(lab: Lab, seed: int, rows: list[Question]) -> list[str]:
    """Settings of a run that learns from all pairs."""
    pairs = [pair for row in rows for pair in larger_reward_pairs(row, reward, MOST_PAIRS, seed)]
    path = lab.write(seed, "table1-facttune", pairs)
    systems = "systems={facttune: {mask: none, epochs: 1}}"
    return [*lab.on_answers(seed, path, labelled=True), systems]


def experiment(lab: Lab) -> Result:
    found: dict[str, dict[tuple[str, str], list]] = {}
    for seed in lab.seeds:
        both = lab.run(seed)
        rows = sorted(both.annotate().store.rows(), key=lambda row: row["id"])
        all_pairs = lab.run(seed, *facttune(lab, seed, rows))
        for name, stages, system in (
            ("base", both, "base"),
            ("facttune", all_pairs, "facttune"),
            ("facttune-matched", both, "dpo"),
            ("mask_dpo", both, "mask_dpo"),
        ):
            columns = found.setdefault(name, {})
            for of, parts in SCORES.items():
                for asked, wanted in SETS.items():
                    one = lab.outcome(stages, system, parts, wanted)
                    columns.setdefault((of, asked), []).append(one)
    columns = list(found["base"])
    rows = [["system", *(f"{of}, {asked}" for of, asked in columns), "sentences", "paper"]]
    figures = {name: {" of ".join(c): score(of[c]) for c in columns} for name, of in found.items()}
    for name, of in found.items():
        cells = [f"{score(of[column])['score']:.1f}" for column in columns]
        length = f"{score(of[columns[0]])['sentences']:.1f}"
        rows.append([name, *cells, length, TABLE_1.get(name, "")])
    claims = [
        claim(
            1,
            f"Mask-DPO has a higher {of} than {name} on {asked}",
            difference(found["mask_dpo"][of, asked], found[name][of, asked]),
            f"{TABLE_1['mask_dpo']} against {TABLE_1[name]}",
        )
        for name in ("base", "facttune", "facttune-matched")
        for of, asked in (columns[0], columns[-1])
    ]
    main = columns[0]
    plot = bars(
        "Sentence score of the systems of table 1",
        "sentence score, %",
        [Bar(name, (of := score(each[main]))["score"], of["ci95"]) for name, each in found.items()],
    )
    return Result(1, "Table 1: systems and scores", rows, figures, claims, plot)


if __name__ == "__main__":
    lab = lab_of_arguments(__doc__)
    result = experiment(lab)
    result.write(lab.folder)
    print(result.text())
