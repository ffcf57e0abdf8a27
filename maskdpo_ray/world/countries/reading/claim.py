"""One thing that a sentence says of a country."""

from typing import NamedTuple

OK, WRONG, OPEN, NOTHING = "ok", "contradictory", "unverifiable", "nofact"


class Claim(NamedTuple):
    verdict: str  # OK, WRONG, or OPEN: nobody can tell
    fact: str  # that it was held against
    span: tuple[int, int]  # where the sentence says so
    about: str = ""  # capital, border, language, currency or place
