"""Sentences of a response, as character spans that tile it (docs/method.md, section 3).

An answer is cut into blocks first, as Markdown writes them (``blocks.py``), then each block of text
by the rules of its own language (``english.py``, ``chinese.py``). docs/sentences.md measures
English against boundaries that people drew.
"""

from collections.abc import Callable
from itertools import pairwise

from maskdpo_ray.annotation.blocks import Block, Kind, blocks, skip_space
from maskdpo_ray.annotation.chinese import chinese_starts
from maskdpo_ray.annotation.english import english_starts
from maskdpo_ray.annotation.enumerations import enumerated
from maskdpo_ray.annotation.language import language_of

RULES = 3  # raised when an answer may be cut elsewhere: verdicts on other sentences are of no use
Span = tuple[int, int]

_STARTS: dict[str, Callable[[str], list[int]]] = {"en": english_starts, "zh": chinese_starts}


def split_sentences(text: str, language: str) -> list[Span]:
    """Split ``text`` into sentences.

    White space after a sentence belongs to it; white space before the first sentence belongs to
    that one. A stretch without a single letter or digit is no sentence: it belongs to the one
    before it, or to the first one. Fenced code, a heading and a row of a table are one unit each.

    Args:
        text: any string, lone surrogates included.
        language: ``en`` or ``zh``, of the question: the rules for text that does not tell its
            language. What does is split by the rules of its own.

    Returns:
        ``(start, end)`` character offsets, end exclusive, in order; joining the slices gives
        ``text`` back. Empty for the empty text, one span for a text without words.

    Raises:
        ValueError: no rules for this language.
    """
    if language not in _STARTS:
        raise ValueError(
            f"no sentence rules for language {language!r}; known: {', '.join(_STARTS)}"
        )
    of_answer = language_of(text, language)
    edges = {0, len(text)}
    position = 0
    for start in sorted(_starts(text, of_answer)):
        position = skip_space(text, max(start, position))
        edges.add(position)
    spans: list[Span] = []
    for start, end in pairwise(sorted(edges)):
        if spans and not (_has_word(text[start:end]) and _has_word(text[slice(*spans[-1])])):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def unit_kind(sentence: str) -> Kind:
    """What a sentence is that :func:`split_sentences` cut: ``text``, ``code`` (a fence),
    ``heading`` or ``row`` (of a table)."""
    return next(blocks(sentence.lstrip("\n")), Block(0, 0, "text")).kind


def _starts(text: str, language: str) -> list[int]:
    starts = []
    for begin, end, kind in blocks(text):
        starts.append(begin)
        if kind != "text":
            continue
        block = text[begin:end]
        items = [0, *enumerated(block)]
        for first, last in pairwise([*items, len(block)]):
            item = block[first:last]
            rules = _STARTS[language_of(item, language)]
            starts += [begin + first, *(begin + first + start for start in rules(item))]
    return starts


def _has_word(text: str) -> bool:
    return any(char.isalnum() for char in text)
