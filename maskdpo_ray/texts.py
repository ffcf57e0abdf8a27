"""What texts hold."""

import unicodedata

LANGUAGES = ("en", "zh")  # of questions


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text: white space, zero-width and control characters."""
    return all(unicodedata.category(char)[0] in "ZC" for char in text)


def without_unseen(text: str) -> str:
    """The text without zero-width spaces and joiners, soft hyphens and byte order marks."""
    return "".join(char for char in text if unicodedata.category(char) != "Cf")
