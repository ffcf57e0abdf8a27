"""report.json: everything a run came to, as one plain dict."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from maskdpo_ray.evaluation.best_of_n import best_of_n
from maskdpo_ray.evaluation.sentence_score import sentence_score
from maskdpo_ray.records import Question

PAIR_STAGES = ("questions-train", "sample", "annotate", "pair")


def build_report(
    *,
    run: str,
    seed: int,
    versions: Mapping[str, str],
    config: Mapping[str, Any],
    manifests: Sequence[Mapping[str, Any]],
    systems: Mapping[str, Mapping[str, Any]],
    best: Mapping[str, Mapping[str, Any]],
    not_scored: Mapping[str, str],
    factscore: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Put a report together.

    Args:
        manifests: of the complete stages, in the order of the graph.
        systems: by name, ``{"greedy": S, "sampled": S}`` (``sentence_score``).
        best: by name, the result of ``best_of_n``.
        not_scored: by name, why an evaluated system has no score.
        factscore: by name, ``{decoding: F}`` (``evaluation.factscore.score``), F with
            ``unknown_topics`` or, where there is no score, with ``not_scored`` alone.

    Returns:
        The report. ``pairs.dropped`` counts, by reason, every training question that gave no
        pair, in whichever stage it was lost: ``questions = kept + sum(dropped) +
        unfinished_questions``, the last being those that a stage still has to do.
    """
    stages = {m["stage"]: m for m in manifests}
    dropped: Counter[str] = Counter()
    for name in PAIR_STAGES:
        dropped.update(stages.get(name, {}).get("counts", {}).get("rejected", {}))
    counts = [stages.get(name, {}).get("counts", {}) for name in (PAIR_STAGES[0], PAIR_STAGES[-1])]
    questions, kept = counts[0].get("in", 0), counts[1].get("out", 0)
    return {
        "run": run,
        "seed": seed,
        "versions": dict(versions),
        "pairs": {
            "questions": questions,
            "kept": kept,
            "dropped": dict(sorted(dropped.items())),
        },
        "unfinished_questions": questions - kept - dropped.total(),
        "systems": {name: dict(scores) for name, scores in systems.items()},
        "not_scored": dict(not_scored),
        "factscore": {name: dict(scores) for name, scores in factscore.items()},
        "best_of_n": {name: dict(result["macro"]) for name, result in best.items()},
        "best_of_n_detail": {name: dict(result) for name, result in best.items()},
        "seconds": {name: manifest.get("seconds", 0.0) for name, manifest in stages.items()},
        "stages": {name: manifest.get("counts", {}) for name, manifest in stages.items()},
        "config": dict(config),
    }


def score_system(
    rows: Iterable[Question], ns: Sequence[int], resamples: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Greedy and sampled score, and best of N, from one system's annotated answers."""
    rows = list(rows)
    scores = {
        decoding: sentence_score(rows, decoding, resamples=resamples, seed=seed)
        for decoding in ("greedy", "sampled")
    }
    return scores, best_of_n(rows, ns, resamples=resamples, seed=seed)
