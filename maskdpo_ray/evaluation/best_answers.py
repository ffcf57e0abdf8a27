"""The best of N sampled answers to each question, as data to train on (rejection sampling)."""

from collections.abc import Iterable, Iterator
from typing import Any

from maskdpo_ray.preference.ranking import PAPER
from maskdpo_ray.preference.select import score
from maskdpo_ray.records import ERROR_VERDICT, Candidate, Question


def best_answers(
    rows: Iterable[Question], best_of: int, system_prompt: str | None = None
) -> Iterator[dict[str, Any]]:
    """One conversation a question: its best answer by the rule that chosen sides are taken by.

    Answers without sentences, and those with one that the annotator failed on, take no part; a
    question that has no other among its first ``best_of`` sampled ones is left out.

    Args:
        system_prompt: what the answers were sampled under.

    Yields:
        ``id``, ``topic``, ``messages`` (system where there is one, user, assistant; the
        conversational format of trainers), ``score`` in percent, ``sentences``, ``index`` of the
        candidate, and ``of``: how many took part.
    """
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    for row in rows:
        sampled = [each for each in row["candidates"] if each["decoding"] == "sampled"][:best_of]
        usable = [candidate for candidate in sampled if _scored(candidate)]
        if not usable:
            continue
        standing = [
            PAPER.as_best(PAPER.tally(sentence["verdict"] for sentence in each["sentences"]), n)
            for n, each in enumerate(usable)
        ]
        best = usable[standing.index(max(standing))]
        yield {
            "id": row["id"],
            "topic": row["topic"],
            "messages": [
                *system,
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": best["response"]},
            ],
            "score": 100 * score(best["sentences"]),
            "sentences": len(best["sentences"]),
            "index": best["index"],
            "of": len(usable),
        }


def _scored(candidate: Candidate) -> bool:
    verdicts = [sentence["verdict"] for sentence in candidate["sentences"]]
    return bool(verdicts) and ERROR_VERDICT not in verdicts
