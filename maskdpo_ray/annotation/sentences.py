"""Sentences of a response, as character spans that tile it (docs/method.md, section 3).

English: NLTK's Punkt algorithm with parameters kept here as data, so nothing is downloaded and a
version of this package always splits the same way. Around it stand rules for what Punkt does not
know: paragraphs, list items, enumerators, citation marks. Chinese: its own punctuation, closing
quotes included. docs/sentences.md measures English against boundaries that people drew.
"""

import re
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

Span = tuple[int, int]


def split_sentences(text: str, language: str) -> list[Span]:
    """Split ``text`` into sentences.

    White space after a sentence belongs to it; white space before the first sentence belongs to
    that one. A stretch without a single letter or digit is no sentence: it belongs to the one
    before it, or to the first one.

    Args:
        text: any string, lone surrogates included.
        language: ``en`` or ``zh``.

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
    edges = {0, len(text)}
    position = 0
    for start in sorted(_STARTS[language](text)):
        position = _skip_space(text, max(start, position))
        edges.add(position)
    spans: list[Span] = []
    for start, end in pairwise(sorted(edges)):
        if spans and not (_has_word(text[start:end]) and _has_word(text[slice(*spans[-1])])):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _has_word(text: str) -> bool:
    return any(char.isalnum() for char in text)


# -- Chinese ------------------------------------------------------------------------------------

# A run of sentence-ending marks and whatever closes with it, or the end of a line. Marks inside a
# title end nothing, nor does a Latin full stop: in Chinese text it stands in numbers, addresses
# and names.
_CHINESE = re.compile(
    r"""《[^《》\n]*》|〈[^〈〉\n]*〉
    |(?P<end>[。！？；!?…｡]+(?:[”’」』〉》】〕］）)\]}]|["'*_]++(?!\w))*|\n)""",
    re.VERBOSE,
)


def _chinese_starts(text: str) -> list[int]:
    return [match.end() for match in _CHINESE.finditer(text) if match["end"]]


# -- English ------------------------------------------------------------------------------------

# A sentence never ends with these, whatever follows.
_NEVER_LAST = frozenset(
    """
    mr mrs ms messrs dr drs prof rev revd fr hon sen sens rep reps gov gen lt maj capt cpt cmdr
    cdr adm col sgt cpl brig supt insp det pres amb msgr mlle mme
    e.g eg i.e viz cf vs c.f approx
    """.split()
)

# A sentence ends with these only where a word of ``_STARTERS`` follows.
_ABBREVIATIONS = _NEVER_LAST | frozenset(
    """
    jr sr esq st ste mt ft ave blvd rd hwy rte bldg apt
    inc ltd co corp llc l.l.c llp plc bros pvt pty mfg intl assn assoc dept univ inst
    ph.d phd m.d d.d d.d.s d.v.m d.phil b.a b.s b.sc bsc m.a m.s m.sc msc m.b.a b.e b.ed m.ed
    b.f.a m.f.a ll.b ll.m ll.d j.d ed.d psy.d b.com m.com b.tech m.tech m.phil div m.div th.d r.n
    u.s u.s.a u.k u.n e.u d.c l.a n.y n.y.c u.s.s h.m.s u.a.e p.r b.c n.z
    a.d b.c.e c.e a.m p.m a.k.a d.b.a r.i.p
    jan feb apr jun jul aug sep sept oct nov dec tue tues thu thur thurs
    al ca etc eds est ext feat repr rev trans viz vol vols chap sec fig figs pp op cit ibid
    avg misc tel hr hrs lb lbs oz kg km cm mm yd yds cu mph ver
    ala ariz ark calif colo conn fla kan ky mich minn mont neb nev okla penn tenn tex vt wis wyo
    """.split()
)

# Before a number these are abbreviations; elsewhere some of them are words or initials.
_BEFORE_NUMBER = """
    no nos p pp vol vols ch chap sec art fig figs eq v c ca approx op b d r
    jan feb mar apr jun jul aug sep sept oct nov dec
""".split()

# Written with a capital after an abbreviation or an initial, these begin a sentence; written
# small they never do. Words that are also names (Will, May) are left out.
_STARTERS = frozenset(
    """
    a an the this that these those there here it its he his him she her they their we our you your
    i my one some many most several both each all another other others such
    in on at by for from with without within of to as after before during since until while when
    where although though because if once under over through throughout between among despite
    upon about against beyond besides along like unlike near
    and but or nor yet so then thus hence however therefore moreover furthermore additionally also
    meanwhile nevertheless nonetheless instead otherwise still later soon now today currently
    recently eventually finally initially originally previously subsequently afterwards
    overall together prior following according apart aside outside having being born known
    who what which why how did does do is are was were has have had not only even just
    please unfortunately notably specifically generally typically similarly likewise
    first second third next last early
    """.split()
)


@cache
def _punkt() -> "PunktSentenceTokenizer":
    from nltk.tokenize import punkt

    parameters = punkt.PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    parameters.collocations = {(word, "##number##") for word in _BEFORE_NUMBER}
    for word in _STARTERS:  # Punkt's way to say: inside a sentence this word is written small
        parameters.ortho_context[word] = punkt._ORTHO_MID_LC
    return punkt.PunktSentenceTokenizer(parameters)


_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_MARKER = r"(?:[-*•◦–—+]|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})[.)]|#{1,6})(?=\s|$)"
_LIST_LINE = re.compile(rf"[^\S\n]*{_MARKER}")
_ONLY_MARKER = re.compile(rf"[*_]*{_MARKER}[*_\s]*")
# After a full stop: quotes, brackets or emphasis that close there, and citation marks,
# with or without a link.
_TRAILING = re.compile(
    r"""(?:[*_"'”’»)\]}]+(?=\s|$)|\s?\[\d{1,3}(?:\s?[,–-]\s?\d{1,3})*\](?:\([^)\s]*\))?)+"""
)
_WORD_EDGE = re.compile(r"""[\s(\[{"'“‘*_/–—]""")
_WORD = re.compile(r"\w*")
_DOTTED = re.compile(r"(?:[^\W\d_]\.){2,}")  # M.I.T., and the initials of R.K. Narayan
_QUOTED_MARK = re.compile(r"""[?!]["'”’»)\]*_]+$""")


def _english_starts(text: str) -> list[int]:
    blocks = _block_starts(text)
    starts = list(blocks)
    for begin, end in zip([0, *blocks], [*blocks, len(text)], strict=True):
        starts += [begin + start for start in _starts_in_block(text[begin:end])]
    return starts


def _block_starts(text: str) -> list[int]:
    """Where paragraphs, list items and headings begin, and what follows a list item: there a
    sentence ends, with or without a full stop."""
    starts = {match.end() for match in _PARAGRAPH.finditer(text)}
    lines = [0, *(match.end() for match in re.finditer("\n", text))]
    for before, line in pairwise(lines):
        indented = text[line : line + 1].isspace()
        if _LIST_LINE.match(text, line) or (_LIST_LINE.match(text, before) and not indented):
            starts.add(line)
    return sorted(starts)


def _starts_in_block(block: str) -> list[int]:
    starts = [0]
    for _, stop in _punkt().span_tokenize(block):
        trailing = _TRAILING.match(block, stop)
        start = _skip_space(block, trailing.end() if trailing else stop)
        if start < len(block) and _ends(block[starts[-1] : stop], _WORD.match(block, start)[0]):
            starts.append(start)
    return starts[1:]


def _ends(sentence: str, following: str) -> bool:
    """Whether what Punkt takes for a sentence is one; ``following`` is the next word, or empty
    where something else comes next."""
    if _ONLY_MARKER.fullmatch(sentence):
        return False
    last = _WORD_EDGE.split(sentence)[-1].lower()
    if last.removesuffix(".") in _NEVER_LAST:
        return False
    if following and _DOTTED.fullmatch(last):
        return following[0].isupper() and following.lower() in _STARTERS
    return not (following[:1].islower() and _QUOTED_MARK.search(sentence))


_STARTS = {"en": _english_starts, "zh": _chinese_starts}
