"""Table 5: the half of the training topics that is near the test topics against the far one.

    python jobs/table5.py CONFIG [--embedding NAME=MODEL ...] [--pooling NAME=mean_all ...]
        [--seeds 0 1 2] [--runs runs/paper] [section.key=value ...]

Near and far are told by the policy's own hidden states, by those of every ``--embedding`` (any
causal or text-embedding model that Transformers loads), and at random: the noise floor, whichever
half is ahead. Whole topics move with all their questions; all halves are cut to equally many pairs.
In the closed world a second policy that has read another printing of the encyclopedia is the other
model. ``--pooling`` is how a model's states become a vector (docs/topics.md; ``policy`` names the
policy): ``mean``, unless said, or ``mean_all`` for models that were trained to embed texts.

The probe below the table asks the hypothesis itself (equations 7 and 8): how often a wrong sentence
about one topic states a fact of another, by the distance of the two in the policy's embedding. In
the closed world facts are known; elsewhere names and years are looked up in the documents.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from maskdpo_ray.config import ModelConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.experiments.borrowed_facts import (
    by_distance,
    facts_in_world,
    stated_elsewhere,
    stated_in_world,
    wrong_sentences,
)
from maskdpo_ray.experiments.compare import (
    Outcome,
    claim,
    difference,
    gap_difference,
    gap_over_noise,
    not_testable,
    score,
)
from maskdpo_ray.experiments.job import Experiment, run_job
from maskdpo_ray.experiments.lab import SYSTEM, Lab, named, other_model
from maskdpo_ray.experiments.parts import equally_many, paired_questions
from maskdpo_ray.experiments.published import HYPOTHESIS, NOT_TOLD, TABLE_5
from maskdpo_ray.experiments.results import Bar, Result, bars, decimal, scored, with_interval
from maskdpo_ray.stages import Stages
from maskdpo_ray.topics.distance import halves, random_halves, to_nearest
from maskdpo_ray.topics.embedding import Embedding, ModelEmbedding, Pooling
from maskdpo_ray.topics.pool import gathered
from maskdpo_ray.world.other_policy import build_other_policy

POLICY, RANDOM = "policy", "random"
BINS = 5


def models(whole: Stages, others: dict[str, str]) -> dict[str, ModelConfig]:
    """Models by name, the policy first."""
    own = whole.model_of(whole.base)
    if whole.world and not others:
        others = {"another policy": str(build_other_policy(Path(whole.world.built)))}
    return {
        POLICY: own,
        **{name: own.model_copy(update=other_model(path)) for name, path in others.items()},
    }


def split(whole: Stages, seed: int, embedding: Embedding | None) -> list[set[str]]:
    """Ids of the questions of the near and of the far half; without an embedding of random ones."""
    pool = gathered(whole.questions("train").rows())
    keys = [topic.key for topic in pool]
    if embedding is None:
        both = random_halves(keys, seed)
    else:
        targets = gathered(whole.questions("test").rows())
        vectors = [embedding.vectors([topic.name for topic in of]) for of in (pool, targets)]
        both = halves(keys, to_nearest(*vectors)[0])
    return [{row["id"] for n in half for row in pool[n].questions} for half in both]


def training_topics(whole: Stages) -> list[str]:
    return sorted({row["topic"] for row in whole.questions("train").rows(["id", "topic"])})


def probe(whole: Stages, vectors: dict[str, np.ndarray]) -> list[Outcome]:
    """Wrong sentences of the candidates against the facts of all training topics, by distance.

    Args:
        vectors: of every training topic.
    """
    rows = sorted(whole.annotate().store.rows(), key=lambda row: row["id"])
    wrong = wrong_sentences(rows)
    topics = sorted({row["topic"] for row in rows})
    if whole.world:
        facts = json.loads((Path(whole.world.built) / "facts.json").read_text(encoding="utf-8"))
        known = facts_in_world({topic: facts[topic] for topic in topics})
        stated = [(topic, stated_in_world(sentence)) for topic, sentence in wrong]
    else:
        documents = {row["topic"]: row["document"] or "" for row in rows}
        known = {topic: stated_elsewhere(topic, text) for topic, text in documents.items()}
        stated = [(topic, stated_elsewhere(topic, sentence)) for topic, sentence in wrong]
    return by_distance(stated, known, topics, np.stack([vectors[t] for t in topics]), BINS)


def check(lab: Lab, embedding: Sequence[str], pooling: Sequence[str]) -> None:
    names = {POLICY, *(named("embedding", text)[0] for text in embedding)}
    if len(names | {RANDOM}) < len(embedding) + 2:
        raise UserError(
            f"--embedding: every model needs a name of its own, not {POLICY} or {RANDOM}"
        )
    for name, value in (named("pooling", text) for text in pooling):
        if name not in names or value not in get_args(Pooling):
            raise UserError(
                f"--pooling {name}={value}: NAME is one of {', '.join(sorted(names))}, and the "
                f"pooling one of {', '.join(get_args(Pooling))}"
            )


def experiment(lab: Lab, embedding: Sequence[str], pooling: Sequence[str]) -> Result:
    others = dict(named("embedding", text) for text in embedding)
    pooled = dict(named("pooling", text) for text in pooling)
    found: dict[str, list] = {}
    probes: list[list[Outcome]] = []
    unknown = None
    for seed in lab.seeds:
        whole = lab.run(seed)
        topics, own, both = training_topics(whole), {}, {}
        for name, model in models(whole, others).items():
            with ModelEmbedding(model, pooled.get(name, "mean")) as embedding:
                both[name] = split(whole, seed, embedding)
                if name == POLICY:
                    own = dict(zip(topics, embedding.vectors(topics), strict=True))
        both[RANDOM] = split(whole, seed, None)
        paired = paired_questions(whole.pair().store.rows())
        parts = {
            (name, side): [paired[row_id] for row_id in sorted(half & paired.keys())]
            for name, sides in both.items()
            for side, half in zip(("near", "far"), sides, strict=True)
        }
        outcomes: dict[str, list] = {}
        for (name, side), part in zip(parts, equally_many(parts.values(), seed), strict=True):
            run = lab.run_part(seed, f"table5-{name.replace(' ', '-')}-{side}", part)
            outcomes.setdefault(name, []).append(lab.outcome(run))
        for name, of_sides in outcomes.items():
            found.setdefault(name, []).append(tuple(of_sides))
        try:
            probes.append(probe(whole, own))
        except UserError as error:  # the table stands without it
            unknown = str(error)
    gaps = {name: difference(*zip(*of, strict=True)) for name, of in found.items()}
    rows = [["embedding", "near", "far", "near - far", "95 %", "by seed", "paper"]]
    for name, of in found.items():
        sides = list(zip(*of, strict=True))
        means = [decimal(score(side)["score"]) for side in sides]
        rows.append([name, *means, *with_interval(gaps[name]), TABLE_5.get(name, TABLE_5["other"])])
    claims = [
        claim(5, "near topics teach more than far ones, told by the policy's own embedding",
              gaps[POLICY], TABLE_5[POLICY]),
        claim(5, "that gap is larger than between random halves",
              gap_over_noise(found[POLICY], found[RANDOM]),
              f"{TABLE_5[POLICY]} against {TABLE_5[RANDOM]}"),
    ] + [
        claim(5, f"the gap is larger by the policy's own embedding than by {name}",
              gap_difference(found[POLICY], found[name]),
              f"{TABLE_5[POLICY]} against {TABLE_5['other']}")
        for name in found if name not in (POLICY, RANDOM)
    ] + [
        claim(5, "the nearest half (`maskdpo topics`) teaches more than a random half",
              difference(*zip(*nearest_and_random(found), strict=True)), NOT_TOLD),
    ]  # fmt: skip
    if whole.world:
        claims.append(
            not_testable(5, "the gap is larger by the policy's own embedding than by a "
                         "text-embedding model", "such a model knows nothing of made-up names",
                         f"{TABLE_5[POLICY]} against {TABLE_5['other']}")
        )  # fmt: skip
    probed, of_probe = probe_claim(probes, unknown)
    claims.append(probed)
    plot = bars(
        "Near minus far by embedding",
        "near - far, points",
        [Bar(name, gap["points"], gap["ci95"]) for name, gap in scored(gaps).items()],
    )
    figures = {"gaps": gaps, "probe": of_probe}
    return Result("table5", "Table 5: near and far topics", rows, figures, claims, plot)


def probe_claim(
    probes: Sequence[Sequence[Outcome]], unknown: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The claim of equations 7 and 8, and its figures.

    Args:
        probes: of every seed, the parts from the nearest to the farthest topics.
        unknown: why a seed could not be probed.
    """
    text = (
        "a wrong sentence about a topic states facts of near topics more often than of far ones "
        "(equations 7 and 8)"
    )
    if unknown:
        return not_testable(5, text, unknown, HYPOTHESIS), {}
    nearest, *_, farthest = by_part = list(zip(*probes, strict=True))
    spread = difference(nearest, farthest)
    shares = [score(of)["score"] for of in by_part]
    # Of what the base answers: no training is in it.
    claimed = claim(5, text, spread, HYPOTHESIS, trained=False)
    return claimed, {"share by distance": shares, **spread}


def nearest_and_random(found: dict[str, list]) -> list[tuple]:
    """By seed, what is trained on the near half and on the first of the random ones."""
    both = zip(found[POLICY], found[RANDOM], strict=True)
    return [(near, first) for (near, _), (first, _) in both]


EXPERIMENT = Experiment(
    experiment,
    {
        "embedding": {"action": "append", "default": [], "metavar": "NAME=MODEL"},
        "pooling": {"action": "append", "default": [], "metavar": "NAME=POOLING"},
    },
    check,
    systems=(SYSTEM,),
)

if __name__ == "__main__":
    run_job(__doc__, EXPERIMENT)
