"""The language of a text, read off its script.

The language of a row is a hint: models answer English questions in Chinese, and the reverse.
"""

import re

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_HAN = re.compile(f"[{HAN}]")
_LATIN_WORD = re.compile(r"[A-Za-zÀ-ɏ]+(?:['’-][A-Za-zÀ-ɏ]+)*")


def language_of(text: str, hint: str) -> str:
    """``zh`` where a text has more Han characters than Latin words, ``en`` where it has fewer.

    A Chinese word is one or two characters, so a Chinese sentence stays Chinese with several Latin
    names in it, and an English one stays English with a quoted Chinese word.

    Args:
        hint: the answer where the text has neither, or as many of both.
    """
    han, latin = han_characters(text), latin_words(text)
    if han == latin:
        return hint
    return "zh" if han > latin else "en"


def han_characters(text: str) -> int:
    return len(_HAN.findall(text))


def latin_words(text: str) -> int:
    return len(_LATIN_WORD.findall(text))
