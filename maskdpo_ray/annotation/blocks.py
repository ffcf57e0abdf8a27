"""Blocks of an answer as Markdown writes them: code, headings, rows of a table, and text.

A sentence never reaches over the edge of a block. Models answer in Markdown unasked, often
without the empty lines that its specification wants, so this reads lines rather than a document.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["text", "code", "heading", "row"]


class Block(NamedTuple):
    """Character offsets, end exclusive. Blocks of a text tile it."""

    start: int
    end: int
    kind: Kind


_LINE = re.compile(r"[^\n]*\n|[^\n]+$")
_QUOTED = r"[^\S\n]*+(?:>[^\S\n]*+)*+"  # indentation, and the marks of a quotation
# 1. or 1[12]. or (a) or iv) or - or ##, several behind one another (`- 1.`).
MARKER = (
    r"(?:[-*•◦▪‣·–—+]|\(?(?:\d{1,3}(?:\[\d{1,3}\])?|[A-Za-z]|[ivxIVX]{1,4})[.)]|"
    r"[（(]?\d{1,3}[）、．]|#{1,6})"
)
MARKERS = rf"(?:{MARKER}(?:[^\S\n]+|(?<=[）、．])|(?=\n|$)))+"
_ITEM = re.compile(rf"{_QUOTED}{MARKERS}")
_BARE_ITEM = re.compile(rf"{_QUOTED}{MARKERS}\s*$")
_HEADING = re.compile(rf"{_QUOTED}#{{1,6}}(?:[^\S\n]|$)")
_BOLD_LINE = re.compile(rf"{_QUOTED}(\*\*|__)(?=\S)[^\n*_]+\1[^\S\n]*+[:：]?[^\S\n]*+$")
_NUMBER = re.compile(r"(?:\d{1,3}[.)])?")
_SENTENCE_END = re.compile(r"[.!?。！？](?=[\s\"'”’)*_]|$)")
_FENCE = re.compile(rf"{_QUOTED}(?:{MARKER}[^\S\n]+)?(`{{3,}}(?=[^`\n]*$)|~{{3,}})")
_RULE = re.compile(rf"{_QUOTED}(?:[-*_=][^\S\n]*+){{3,}}$")
_DASHES = r"[^\S\n]*+:?-++:?[^\S\n]*+"
_DELIMITER = re.compile(rf"{_QUOTED}\|?(?:{_DASHES}\|)++(?:{_DASHES})?[^\S\n]*+$")
_PIPED = re.compile(rf"{_QUOTED}\|.*\|[^\S\n]*$")


def blocks(text: str) -> Iterator[Block]:
    """The blocks of ``text``, in order.

    * A code fence to its end, or to the end of the text where it is cut off: one block.
    * A heading (``## Life``, or a line of bold words that is no sentence): its line.
    * A row of a table: its line. The line of dashes belongs to the row above it.
    * Text: paragraphs and list items. An empty line ends both; a line that is not indented ends a
      list item. A marker alone on its line belongs to what follows.
    """
    start, kind = 0, "text"
    for edge, following in _edges(text):
        if edge > start:
            yield Block(start, edge, kind)
        start, kind = edge, following
    if start < len(text):
        yield Block(start, len(text), kind)


def _edges(text: str) -> Iterator[tuple[int, Kind]]:
    """Where a block begins, and which kind it is."""
    fence: str | None = None
    # A table or an item goes on; the line before is a marker alone, or ends its block.
    table = item = bare = ended = False
    before: Kind = "text"
    lines = _LINE.findall(text)
    position = 0
    for number, whole in enumerate(lines):
        line, begin = whole.rstrip("\n\r"), position
        position += len(whole)
        if fence is not None:
            closing = line.strip(" \t>")
            if len(closing) >= len(fence) and not closing.strip(fence[0]):
                fence, item, bare = None, False, False
            continue
        if opened := _FENCE.match(line):
            fence, table = opened[1], False
            yield begin, "code"
            before = "code"
            continue
        if not line.strip():
            ended, table = not bare, False
            continue
        following = lines[number + 1].rstrip("\n\r") if number + 1 < len(lines) else ""
        if table and "|" in line and _DELIMITER.match(line):
            continue  # of the row above
        head = "|" in line and "|" in following and _DELIMITER.match(following) is not None
        table = head or ("|" in line and (table or _PIPED.match(line) is not None))
        if table:
            yield begin, "row"
            before, item, bare = "row", False, False
            continue
        if _is_heading(line):
            yield begin, "heading"
            before, item, bare = "heading", False, False
            continue
        is_item = _ITEM.match(line) is not None
        leaves_item = item and not line[:1].isspace()
        if is_item or ended or leaves_item or before != "text":
            yield begin, "text"
        bare = _BARE_ITEM.match(line) is not None
        before, ended = "text", _RULE.match(line) is not None
        item = (is_item and not bare) or (item and line[:1].isspace())


def _is_heading(line: str) -> bool:
    if _HEADING.match(line):
        return True
    bold = _BOLD_LINE.match(line)
    if bold is None:
        return False
    numbered = _NUMBER.match(line, bold.end(1))
    return not _SENTENCE_END.search(line, numbered.end())


def skip_space(text: str, position: int) -> int:
    """The first position from here on that holds no white space."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position
