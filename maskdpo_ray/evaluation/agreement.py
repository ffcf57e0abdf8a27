"""How far two annotators agree on the same sentences: one examined, one believed."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.intervals import drawn_interval
from maskdpo_ray.records import (
    ERROR_VERDICT,
    JUDGED,
    SKIPPED_VERDICT,
    Question,
    is_correct,
)

# Rows of a table of counts: verdict of the examined annotator, then of the one that is believed.
BOTH, FALSE_ALARM, MISSED, NEITHER = range(4)  # who says "incorrect"
NO_VERDICT = (ERROR_VERDICT, SKIPPED_VERDICT)


def agreement(
    rows: Iterable[tuple[Question, Question]], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Agreement sentence by sentence; a sentence is *hallucinated* when its verdict is incorrect.

    Args:
        rows: each question twice, annotated by the examined and by the believed annotator, with
            the same candidates and the same sentences.
        resamples: bootstrap resamples of the topics.

    Returns:
        ``precision``, ``recall``, ``f1`` of hallucinated sentences, ``accuracy``, ``kappa``
        (Cohen's: agreement beyond what the two shares of hallucinated sentences give by chance),
        each ``[value, low, high]`` with its 95 % interval over topics (``intervals.py``), all from
        0 to 1 (kappa from -1), or None where undefined; ``low`` and ``high`` are None where there
        is no interval: of one topic, and of a kappa that no resample changes; ``sentences``: those
        that both judged, in all ``hallucinated_examined`` and ``hallucinated_believed`` of them;
        ``errors_examined``, ``errors_believed``: sentences without a verdict, left out;
        ``verdicts``: counts from examined verdict to believed verdict; ``questions``, ``topics``.

    Raises:
        UserError: no sentence has two verdicts.
        ValueError: the two do not have the same sentences.
    """
    topics: dict[str, np.ndarray] = {}
    verdicts: Counter[tuple[str, str]] = Counter()
    errors = [0, 0]
    questions = 0
    for examined, believed in rows:
        questions += 1
        counts = topics.setdefault(examined["topic"], np.zeros(4, dtype=np.int64))
        for ours, theirs in _sentences(examined, believed):
            errors[0] += ours in NO_VERDICT
            errors[1] += theirs in NO_VERDICT
            if ours in NO_VERDICT or theirs in NO_VERDICT:
                continue
            counts[2 * is_correct(ours) + is_correct(theirs)] += 1
            verdicts[ours, theirs] += 1
    table = np.array(list(topics.values())).reshape(-1, 4)
    whole = table.sum(axis=0)
    if not whole.sum():
        raise UserError(
            f"no sentence of {questions} questions has two verdicts to compare "
            f"({errors[0]} without one of the examined annotator, {errors[1]} without a label)"
        )
    drawn = np.random.default_rng(seed).multinomial(
        len(table), np.full(len(table), 1 / len(table)), size=resamples
    )
    values, spread, by_topic = _figures(whole[None]), _figures(drawn @ table), _figures(table)

    def interval(name: str) -> list[float] | None:
        # Kappa, no share of anything, has no interval where no resample changes it.
        of = by_topic["accuracy" if name == "kappa" else name]
        topics = int(np.isfinite(of).sum())
        share = None if name == "kappa" else float(values[name][0])
        return drawn_interval(share, spread[name], topics)

    return {
        **{
            name: None if np.isnan(value) else [float(value), *(interval(name) or (None, None))]
            for name, [value] in values.items()
        },
        "sentences": int(whole.sum()),
        "hallucinated_examined": int(whole[BOTH] + whole[FALSE_ALARM]),
        "hallucinated_believed": int(whole[BOTH] + whole[MISSED]),
        "errors_examined": errors[0],
        "errors_believed": errors[1],
        "verdicts": {
            ours: {theirs: n for theirs in JUDGED if (n := verdicts[ours, theirs])}
            for ours in JUDGED
            if any(verdicts[ours, theirs] for theirs in JUDGED)
        },
        "questions": questions,
        "topics": len(topics),
    }


def same_questions(
    examined: Iterable[Question], believed: Iterable[Question]
) -> Iterator[tuple[Question, Question]]:
    """Each question that both annotators judged, as the one and as the other left it."""
    known = {row["id"]: row for row in believed}
    return ((row, known[row["id"]]) for row in examined if row["id"] in known)


def _sentences(examined: Question, believed: Question) -> Iterable[tuple[str, str]]:
    for ours, theirs in zip(examined["candidates"], believed["candidates"], strict=True):
        for mine, other in zip(ours["sentences"], theirs["sentences"], strict=True):
            if (mine["start"], mine["end"]) != (other["start"], other["end"]):
                raise ValueError(f"question {examined['id']!r}: the sentences are not the same")
            yield mine["verdict"], other["verdict"]


def _figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of tables of counts of shape ``[tables, 4]``; NaN where there is none."""
    both, false_alarm, missed, neither = counts.T.astype(float)
    n = both + false_alarm + missed + neither
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = (both + neither) / n
        examined, believed = (both + false_alarm) / n, (both + missed) / n
        chance = examined * believed + (1 - examined) * (1 - believed)
        return {
            "precision": both / (both + false_alarm),
            "recall": both / (both + missed),
            "f1": 2 * both / (2 * both + false_alarm + missed),
            "accuracy": accuracy,
            "kappa": (accuracy - chance) / (1 - chance),
        }
