"""From marked stretches of an answer to verdicts on its sentences."""

from collections.abc import Sequence

from maskdpo_ray.annotation.annotator import Mark, Verdict
from maskdpo_ray.records import CORRECT_VERDICTS, ERROR_VERDICT, INCORRECT_VERDICTS

GRAVEST_FIRST = (*INCORRECT_VERDICTS, ERROR_VERDICT, *CORRECT_VERDICTS)
UNMARKED = Verdict("ok", "nothing marked")


def verdicts_of_marks(
    marks: Sequence[Mark], response: str, spans: Sequence[tuple[int, int]]
) -> list[Verdict]:
    """One verdict for each sentence.

    A mark belongs to every sentence with which it shares a character that is no white space. A
    sentence has the gravest verdict of its marks (``contradictory``, ``unverifiable``, ``error``,
    ``ok``, ``nofact``), with the highest confidence and all details of those that say it; one
    without a mark is ``ok``.

    Raises:
        ValueError: a mark is not within the response, or its verdict is none.
    """
    for mark in marks:
        if not 0 <= mark.start < mark.end <= len(response):
            raise ValueError(
                f"marks characters {mark.start} to {mark.end} of an answer of {len(response)}"
            )
        if mark.verdict not in GRAVEST_FIRST:
            raise ValueError(f"marks {mark.verdict!r}: not one of {', '.join(GRAVEST_FIRST)}")
    return [_of(marks, response, start, end) for start, end in spans]


def _of(marks: Sequence[Mark], response: str, start: int, end: int) -> Verdict:
    shared = [
        mark for mark in marks if response[max(start, mark.start) : min(end, mark.end)].strip()
    ]
    if not shared:
        return UNMARKED
    gravest = min((mark.verdict for mark in shared), key=GRAVEST_FIRST.index)
    said = [mark for mark in shared if mark.verdict == gravest]
    told = [mark.confidence for mark in said if mark.confidence is not None]
    details = "; ".join(mark.detail for mark in said if mark.detail)
    return Verdict(gravest, details, max(told, default=None))
