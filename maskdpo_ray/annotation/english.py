"""Where English sentences begin.

NLTK's Punkt algorithm with parameters kept here as data, so nothing is downloaded and a version of
this package always splits the same way. Around it stand rules for what Punkt does not know:
enumerators, citation marks, quotations that go on, code and links inside a sentence.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

from maskdpo_ray.annotation.blocks import MARKERS, skip_space
from maskdpo_ray.annotation.citations import CITATION

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

# A sentence never ends with these, whatever follows.
_NEVER_LAST = frozenset(
    """
    mr mrs ms messrs dr drs prof rev revd fr hon sen sens rep reps gov gen lt maj capt cpt cmdr
    cdr adm col sgt cpl brig supt insp det pres amb msgr mlle mme
    e.g eg i.e viz cf vs c.f approx p.s
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
    jan feb apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri
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
    first second third next last early let
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


_ONLY_MARKERS = re.compile(rf"[\s>*_]*{MARKERS}[*_\s]*")
# After a full stop: quotes, brackets or emphasis that close there, and citation marks,
# with or without a link.
_CLOSING = r"""[*_"'”’»)\]}]+"""
_TRAILING = re.compile(rf"(?:{_CLOSING}(?=\s|$)|\s?{CITATION})+")
# An end that Punkt does not see: it knows few characters that may stand behind one.
_CITED = re.compile(rf"[.!?](?:{_CLOSING})?(?={CITATION}(?:\s|$))")
_WORD_EDGE = re.compile(r"""[\s(\[{"'“‘*_/–—]""")
_WORD = re.compile(r"\w*")
_DOTTED = re.compile(r"(?:[^\W\d_]\.){2,}")  # M.I.T., and the initials of R.K. Narayan
_INITIAL = re.compile(r"[^\W\d_]\.")
_YEAR = re.compile(r"[(\[]\d")  # (2009), as in a list of references
_ADDED = re.compile(r"\((?!\d)")
_MARK = re.compile(rf"(?:[?!](?:{_CLOSING})?|\.{_CLOSING})$")
_OF_TITLE = re.compile(r"\(\d{4}\) [a-z]")  # What Is It? (1967) is a film
_ELLIPSIS = re.compile(r"…\s+(?P<word>\w+)")  # as Punkt takes three full stops
# What a full stop in it does not end: code and formulas inside a line, the text of a link.
_WHOLE = re.compile(
    r"`[^`\n]++`|\$\$[^$]++\$\$|\$(?=\S)[^$\n]{1,200}(?<=\S)\$(?!\w)"
    r"|\\\[.{1,200}?\\\]|\\\(.{1,200}?\\\)|\[[^\[\]\n]*+\]\([^()\s]*+\)"
)
LOOKED_AT = 100  # characters on either side of an end
# Full-width marks end a sentence in any language.
_FULL_WIDTH = re.compile(r"[。！？]+[”’」』）)\]\"'*_]*")


def english_starts(text: str) -> list[int]:
    """Where sentences of a block after its first begin: offsets, white space not skipped yet."""
    starts = [0]
    whole = [match.span() for match in _WHOLE.finditer(text)]
    for stop, trailing in _stops(text):
        start = skip_space(text, trailing)
        if start == len(text) or not (text[start - 1].isspace() or text[stop - 1] in "。！？"):
            continue
        if whole and any(begin < start < end for begin, end in whole):
            continue
        # Not all of what is there already: in an answer that loops it grows without an end.
        sentence = text[max(starts[-1], stop - LOOKED_AT) : stop]
        if _ends(sentence, text[start : start + LOOKED_AT]):
            starts.append(start)
    return starts[1:]


def _stops(text: str) -> list[tuple[int, int]]:
    """Where Punkt ends a sentence or a full-width mark stands, and where what closes it ends."""
    stops = {}
    for _, stop in _punkt().span_tokenize(text):
        trailing = _TRAILING.match(text, stop)
        stops[stop] = trailing.end() if trailing else stop
    for match in _FULL_WIDTH.finditer(text):
        stops[match.end()] = match.end()
    for match in _ELLIPSIS.finditer(text):
        word = match["word"]
        if word[0].isupper() and word.lower() in _STARTERS:
            stops[match.start("word")] = match.start("word")
    for match in _CITED.finditer(text):
        trailing = _TRAILING.match(text, match.end()).end()
        if _ends_cited(text[max(0, match.end() - LOOKED_AT) : match.end()], text[trailing:]):
            stops[match.end()] = trailing
    return sorted(stops.items())


def _ends_cited(sentence: str, following: str) -> bool:
    """What Punkt asks of the others: no abbreviation that goes on, no small letter behind it."""
    word = _WORD.match(following.lstrip())[0]
    last = _WORD_EDGE.split(sentence)[-1].lower().removesuffix(".")
    return not word[:1].islower() and (last not in _ABBREVIATIONS or word.lower() in _STARTERS)


def _ends(sentence: str, following: str) -> bool:
    """Whether what Punkt takes for a sentence is one; ``following`` is what comes next."""
    if _ONLY_MARKERS.fullmatch(sentence):
        return False
    word = _WORD.match(following)[0]
    last = _WORD_EDGE.split(sentence)[-1].lower()
    if last.removesuffix(".") in _NEVER_LAST:
        return False
    if last.endswith(".") and last[:-1] in _BEFORE_NUMBER and word[:1].isdigit():
        return False
    if _INITIAL.fullmatch(last) and _YEAR.match(following):
        return False
    if _ADDED.match(following) and (_DOTTED.fullmatch(last) or last[:-1] in _ABBREVIATIONS):
        return False  # Apple Inc. (AAPL), a B.Sc. (Hons.)
    if word and _DOTTED.fullmatch(last):
        return word[0].isupper() and word.lower() in _STARTERS
    # Yahoo! was, “Go!” he said, (Hons.) in, Who? (1967) is
    goes_on = word.islower() or _OF_TITLE.match(following)
    return not (goes_on and _MARK.search(sentence))
