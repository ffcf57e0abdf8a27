"""report.json: everything a run came to, as one plain dict."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from maskdpo_ray.evaluation.agreement import agreement, same_questions
from maskdpo_ray.evaluation.best_of_n import best_of_n
from maskdpo_ray.evaluation.f1_at_k import median_facts
from maskdpo_ray.evaluation.responses import read_responses
from maskdpo_ray.evaluation.sentence_score import sentence_score
from maskdpo_ray.records import Question
from maskdpo_ray.report.silence import silence_warnings

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
    judges: Mapping[str, Mapping[str, Any]],
    human_labels: Mapping[str, Mapping[str, Any]],
    not_scored: Mapping[str, str],
    factscore: Mapping[str, Mapping[str, Any]],
    win_rate: Mapping[str, Mapping[str, Any]],
    short_form: Mapping[str, Mapping[str, Any]],
    lm_eval: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Put a report together.

    Args:
        manifests: of the complete stages, in the order of the graph.
        systems: by name, ``{"greedy": S, "sampled": S}`` (``sentence_score``).
            A decoding that given answers lack is None.
        best: by name, the result of ``best_of_n``.
        judges: by name, ``annotator``, ``model`` and ``systems``: by name, ``{"greedy": S,
            "sampled": S, "agreement": A}`` (``score_again``).
        human_labels: by the name of a system whose given answers people have labelled, and by
            where an examiner's settings stand, ``annotator``, ``model`` and what
            ``against_labels`` found.
        not_scored: by name, why an evaluated system has no score.
        factscore: by name, ``{decoding: F}`` (``evaluation.factscore.score``), F with
            ``unknown_topics`` or, where there is no score, with ``not_scored`` alone.
        win_rate: by name, as ``evaluation.win_rate.score`` makes it.
        short_form: by name and decoding, as ``evaluation.short_form.score`` makes it.
        lm_eval: by name and task, as ``evaluation.lm_eval.score`` makes it.

    Returns:
        The report. ``pairs.dropped`` counts, by reason, every training question that gave no
        pair, in whichever stage it was lost: ``questions = kept + sum(dropped) +
        unfinished_questions``, the last being those that a stage still has to do. ``warnings``:
        what ``silence_warnings`` finds.
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
        "warnings": silence_warnings(systems, factscore),
        "not_scored": dict(not_scored),
        "judges": {name: dict(judge) for name, judge in judges.items()},
        "human_labels": {name: dict(examiners) for name, examiners in human_labels.items()},
        "factscore": {name: dict(scores) for name, scores in factscore.items()},
        "win_rate": {name: dict(found) for name, found in win_rate.items()},
        "short_form": {name: dict(scores) for name, scores in short_form.items()},
        "lm_eval": {name: dict(tasks) for name, tasks in lm_eval.items()},
        "best_of_n": {name: dict(result["macro"]) for name, result in best.items()},
        "best_of_n_detail": {name: dict(result) for name, result in best.items()},
        "seconds": {name: manifest.get("seconds", 0.0) for name, manifest in stages.items()},
        "stages": {name: manifest.get("counts", {}) for name, manifest in stages.items()},
        "config": dict(config),
    }


def facts_wanted(base: Iterable[Question]) -> int | None:
    """K of F1@K: the median of the base's answers, the greedy ones where it has some."""
    rows = list(base)
    for decoding in ("greedy", "sampled"):
        if len(responses := read_responses(rows, decoding)):
            return median_facts(responses)
    return None


def score_system(
    rows: Iterable[Question], ns: Sequence[int], k: int | None, resamples: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Greedy and sampled score, and best of N, from one system's annotated answers.

    Answers that were given may lack a decoding, whose score is None, and have best of N only for
    those N of which every question has so many.
    """
    rows = list(rows)
    scores = _scores(rows, k, resamples, seed)
    fewest = min(
        sum(candidate["decoding"] == "sampled" for candidate in row["candidates"]) for row in rows
    )
    ns = [n for n in ns if n <= fewest]
    return scores, best_of_n(rows, ns, resamples=resamples, seed=seed) if ns else None


def score_again(
    judged: Iterable[Question],
    first: Iterable[Question],
    k: int | None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Greedy and sampled score of one system under a further judge, and how far the judge agrees
    with the first examiner on the same sentences, greedy and sampled answers together."""
    rows = list(judged)
    both = same_questions(rows, first)
    return {
        **_scores(rows, k, resamples, seed),
        "agreement": agreement(both, resamples=resamples, seed=seed),
    }


def against_labels(
    examined: Iterable[Question], labelled: Iterable[Question], resamples: int, seed: int
) -> dict[str, Any]:
    """``agreement`` of an examiner with the labels that came with given answers.

    Args:
        examined: the answers with the examiner's verdicts.
        labelled: the same with the sentences that people labelled; some may have none.
    """
    both = []
    for rows in same_questions(examined, labelled):
        places = [n for n, each in enumerate(rows[1]["candidates"]) if each["sentences"]]
        both.append([{**row, "candidates": [row["candidates"][n] for n in places]} for row in rows])
    return agreement(both, resamples=resamples, seed=seed)


def is_labelled(row: Question) -> bool:
    """Whether people have labelled one of the answers."""
    return any(candidate["sentences"] for candidate in row["candidates"])


def _scores(rows: list[Question], k: int | None, resamples: int, seed: int) -> dict[str, Any]:
    there = {candidate["decoding"] for row in rows for candidate in row["candidates"]}
    return {
        decoding: sentence_score(rows, decoding, k=k, resamples=resamples, seed=seed)
        if decoding in there or not there
        else None
        for decoding in ("greedy", "sampled")
    }
