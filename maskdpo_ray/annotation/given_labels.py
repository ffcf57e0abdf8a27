"""Verdicts that came with the input, checked and made to tile the response."""

from maskdpo_ray.errors import RowRejected
from maskdpo_ray.preference.token_spans import MaskError
from maskdpo_ray.preference.weights import tile_sentences
from maskdpo_ray.records import ERROR_VERDICT, VERDICTS, Candidate, Question


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


def tile_labels(candidate: Candidate) -> Candidate:
    try:
        sentences = tile_sentences(candidate["response"], candidate["sentences"])
    except MaskError as error:
        whole = {"start": 0, "end": len(candidate["response"]), "verdict": ERROR_VERDICT}
        sentences = [{**whole, "detail": str(error)}]
    return {**candidate, "sentences": sentences}
