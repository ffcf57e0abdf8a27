"""The words that are said of a sentence."""

CORRECT_VERDICTS = ("ok", "nofact")
INCORRECT_VERDICTS = ("contradictory", "unverifiable")
JUDGED = (*CORRECT_VERDICTS, *INCORRECT_VERDICTS)
ERROR_VERDICT = "error"
VERDICTS = (*JUDGED, ERROR_VERDICT)
# Stands where no annotator was asked (annotation/pruning.py). No annotator may answer it.
SKIPPED_VERDICT = "skipped"
FACT_VERDICTS = ("supported", "not_supported", ERROR_VERDICT)  # on atomic facts


def is_correct(verdict: str) -> bool:
    """Whether a sentence with this verdict counts as correct (paper, section 2.2).

    Raises:
        ValueError: for ``error``, ``skipped`` and any word that is no verdict. An annotator that
            failed or was not asked says nothing about the sentence, so there is no default.
    """
    if verdict in CORRECT_VERDICTS:
        return True
    if verdict in INCORRECT_VERDICTS:
        return False
    raise ValueError(
        f"verdict {verdict!r} is neither correct nor incorrect; "
        f"expected one of {', '.join(JUDGED)}"
    )
