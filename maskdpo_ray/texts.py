"""What texts hold."""

import unicodedata

LANGUAGES = ("en", "zh")  # of questions


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text: white space, zero-width and control characters."""
    return all(unicodedata.category(char)[0] in "ZC" for char in text)
