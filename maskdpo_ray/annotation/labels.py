"""Verdicts that came with the input, checked and made to tile the response."""

from maskdpo_ray.errors import RowRejected
from maskdpo_ray.preference.token_spans import MaskError
from maskdpo_ray.preference.weights import tile_sentences
from maskdpo_ray.records import ERROR_VERDICT, VERDICTS, Candidate, Question


class Labels:
    """Takes the sentences that stand in the row in place of an annotator's.

    A candidate without sentences has not been labelled and stays so. Where the labels do not
    cover a response, or their spans are wrong, the response becomes one sentence of verdict
    ``error`` with the reason. Pairs leave both out. A word that is no verdict rejects the row.
    """

    async def __call__(self, rows: list[Question]) -> list[Question | RowRejected]:
        return [_check(row) for row in rows]


def _check(row: Question) -> Question | RowRejected:
    try:
        check_labels(row)
    except RowRejected as rejected:
        return rejected
    return {**row, "candidates": [_tile(candidate) for candidate in row["candidates"]]}


def check_labels(row: Question) -> None:
    """Raise ``RowRejected`` where a question has no labelled sentence, or a label is no verdict."""
    if not any(candidate["sentences"] for candidate in row["candidates"]):
        raise RowRejected(
            "labels_missing",
            f"question {row['id']!r}: none of its {len(row['candidates'])} candidates has labelled "
            "sentences: add `sentences` to them, or use another annotator",
        )
    for number, candidate in enumerate(row["candidates"]):
        for position, sentence in enumerate(candidate["sentences"]):
            if sentence["verdict"] not in VERDICTS:
                raise RowRejected(
                    "unknown_verdict",
                    f"question {row['id']!r}, candidate {number}, sentence {position} is labelled "
                    f"{sentence['verdict']!r}; a label is one of {', '.join(VERDICTS)}",
                )


def _tile(candidate: Candidate) -> Candidate:
    try:
        sentences = tile_sentences(candidate["response"], candidate["sentences"])
    except MaskError as error:
        whole = {"start": 0, "end": len(candidate["response"]), "verdict": ERROR_VERDICT}
        sentences = [{**whole, "detail": str(error)}]
    return {**candidate, "sentences": sentences}
