"""Two kinds of trouble: what a person must mend, and a row that cannot go on."""


class UserError(Exception):
    """Bad input or configuration. The message is one line: what, why, and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


class RowRejected(Exception):
    """This row cannot go on; its neighbours can.

    Args:
        reason: short slug that the report counts by, e.g. ``prompt_too_long``.
        detail: what was wrong with this row, and the remedy.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def first_line(error: BaseException) -> str:
    """The message of an error on one line, its type where it has no message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
