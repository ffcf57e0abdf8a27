"""Pages cut into passages, and texts into tokens.

Tokens are words, single Chinese characters and punctuation marks: no model's vocabulary, so that
a passage is the same whoever verifies facts by it.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from maskdpo_ray.annotation.sentences import Span, split_sentences

PASSAGE = 256  # tokens
# Pages of the database that FActScore published are cut already, into 256 tokens of RoBERTa's
# vocabulary, and keep that vocabulary's marks of beginning and end.
SEPARATOR = "####SPECIAL####SEPARATOR####"
BEGINNING = "<s>"
_MARKS = re.compile(r"(?:</?s>)+")
_TOKEN = re.compile(r"[㐀-鿿]|[^\W㐀-鿿]+|[^\w\s]")


def words(text: str) -> list[str]:
    """The tokens of a text that BM25 counts: lower case, no punctuation."""
    return [token for token in _TOKEN.findall(text.lower()) if token[0].isalnum()]


def cut_passages(page: str, language: str, size: int = PASSAGE) -> list[str]:
    """Consecutive passages of at most ``size`` tokens.

    A passage holds whole sentences; a sentence of more than ``size`` tokens is cut. A page that
    was cut before, which holds ``SEPARATOR`` or begins with a mark, stays cut as it is.

    Returns:
        Passages in the order of the page, white space around them removed; none is empty.
    """
    if SEPARATOR in page or page.startswith(BEGINNING):
        passages = [_MARKS.sub(" ", part) for part in page.split(SEPARATOR)]
    else:
        passages = [page[start:end] for start, end in _packed(page, language, size)]
    return [passage.strip() for passage in passages if passage.strip()]


def _packed(page: str, language: str, size: int) -> Iterator[Span]:
    begin = end = held = 0
    for start, stop, tokens in _pieces(page, language, size):
        if held and held + tokens > size:
            yield begin, end
            begin, held = start, 0
        end, held = stop, held + tokens
    if end:
        yield begin, end


def _pieces(page: str, language: str, size: int) -> Iterator[tuple[int, int, int]]:
    """Start, end and tokens of each sentence, or of parts of one that is too long."""
    for start, end in split_sentences(page, language):
        starts = [match.start() for match in _TOKEN.finditer(page, start, end)]
        cuts = [start, *starts[size::size], end]
        for part, (a, b) in enumerate(pairwise(cuts)):
            yield a, b, min(size, len(starts) - part * size)
