"""Grades by words alone.

Both texts are folded: Unicode's compatible forms, case, accents, punctuation (`U.S.A.`, `O'Brien`),
the articles and commas between thousands make no difference; a sign (`-5`) and what belongs to a
name (`C++`) do. An answer is correct where it holds all words of a reference
answer in a row (of a reference in Chinese: its characters), but not right after "not"; else it is
not attempted where it abstains, and incorrect where it does not. The rule knows no synonyms, and an
answer that names several things is correct when one of them is: where that matters, take a judge.
"""

import re
import unicodedata
from collections.abc import Sequence

from maskdpo_ray.annotation.language import HAN
from maskdpo_ray.evaluation.abstention import abstains

RULES = 2  # raised when an answer may be graded otherwise
CORRECT, INCORRECT, NOT_ATTEMPTED = "correct", "incorrect", "not_attempted"
GRADES = (CORRECT, INCORRECT, NOT_ATTEMPTED)

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DOTTED = re.compile(r"\b(?:[^\W\d_]\.){2,}")
_WITHIN = re.compile(r"(?<=\w)['’](?:s\b|(?=\w))")  # Ada's, O'Brien
_WORD = re.compile(rf"[{HAN}]|(?:(?<!\w)-(?=\d))?(?:(?![{HAN}])\w)+(?:(?<=[^\W\d_])[+#]+)?")
_ARTICLES = {"a", "an", "the"}
_NOT = {"not", "never", "不", "非"}


def grade(response: str, references: Sequence[str], language: str) -> str:
    """The grade of one answer.

    Args:
        references: one is enough.
        language: of the question, as of ``abstains``.
    """
    if any(_holds(_words(response), _words(reference)) for reference in references):
        return CORRECT
    return NOT_ATTEMPTED if abstains(response, language) else INCORRECT


def _words(text: str) -> list[str]:
    parts = unicodedata.normalize("NFKD", text)
    bare = "".join(char for char in parts if unicodedata.category(char) != "Mn")
    folded = unicodedata.normalize("NFKC", bare).casefold().replace("−", "-")
    folded = folded.replace("n't", " not").replace("n’t", " not")
    folded = _DOTTED.sub(lambda match: match[0].replace(".", ""), _WITHIN.sub("", folded))
    return _WORD.findall(_THOUSANDS.sub("", folded))


def _holds(said: list[str], reference: list[str]) -> bool:
    """Whether an answer holds a reference, articles apart unless it is one: blood of type A."""
    if bare := [word for word in reference if word not in _ARTICLES]:
        said, reference = [word for word in said if word not in _ARTICLES], bare
    return _stands(reference, said)


def _stands(reference: list[str], said: list[str]) -> bool:
    """Whether the words of a reference stand in a row, and are not denied."""
    length = len(reference)
    return bool(length) and any(
        said[start : start + length] == reference and not _denied(said[:start])
        for start in range(len(said) - length + 1)
    )


def _denied(before: list[str]) -> bool:
    return before[-1:] == ["是"] and before[-2:-1] == ["不"] or not _NOT.isdisjoint(before[-1:])
