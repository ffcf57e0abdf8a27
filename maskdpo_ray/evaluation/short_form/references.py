"""The reference answers of the test questions: a column of text, or of lists of texts."""

from itertools import islice
from typing import Any

from maskdpo_ray.errors import UserError
from maskdpo_ray.questions import row_id
from maskdpo_ray.sources import Source


def read_references(source: Source, limit: int | None = None) -> dict[str, list[str]]:
    """The reference answers of each question that has any, by its id.

    Raises:
        UserError: the source cannot be used, a reference answer is no text, or there are none.
    """
    found = {}
    for place, record in islice(source.rows(), limit):
        if answers := _texts(record.get("answers"), place):
            found[row_id(record, place)] = answers
    if not found:
        raise UserError(
            f"{source}: no question has reference answers: add a column `answers` (a text, or a "
            "list of texts), or name yours in data.columns"
        )
    return found


def _texts(given: Any, place: str) -> list[str]:
    if given is None:
        return []
    answers = given if isinstance(given, list) else [given]
    for answer in answers:
        if not isinstance(answer, str):
            raise UserError(
                f"{place}: 'answers' must be a text or a list of texts, not {type(answer).__name__}"
            )
    return [answer for answer in answers if answer.strip()]
