"""Every answer with its sentences, their verdicts and what is behind them, as pages to read."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from maskdpo_ray.pages import page
from maskdpo_ray.records import Question
from maskdpo_ray.review.disputed import opinions


def render_answers(name: str, examined: Iterable[Mapping[str, Question]]) -> Iterator[str]:
    """A page, in pieces: no more than one question of a store is held at once.

    Args:
        name: who answered.
        examined: each question as every examiner left it, the first one's row first.
    """
    template = page("maskdpo_ray.review", "answers.html.j2")
    return template.generate(name=name, questions=map(_question, examined))


def _question(rows: Mapping[str, Question]) -> dict[str, Any]:
    """What the page shows of a question."""
    first = next(iter(rows.values()))
    answers = [
        {
            "decoding": candidate["decoding"],
            "sentences": [
                {
                    "text": candidate["response"][each["start"] : each["end"]],
                    "verdict": each["verdict"],
                    "opinions": opinions(rows, place, position),
                }
                for position, each in enumerate(candidate["sentences"])
            ],
        }
        for place, candidate in enumerate(first["candidates"])
    ]
    shown = {key: first[key] for key in ("id", "topic", "question", "document")}
    return shown | {"answers": answers}
