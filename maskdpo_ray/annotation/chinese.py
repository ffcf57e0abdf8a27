"""Where Chinese sentences begin: its own punctuation, closing quotes and brackets included."""

import re

from maskdpo_ray.annotation.citations import CITATION
from maskdpo_ray.annotation.language import HAN, han_characters, latin_words

# Who says it, and the verb: behind a quotation it goes on with these.
_SAYS = (
    "说|道|问|喊|叫|答|想|写|讲|笑|哭|嚷|吼|骂|叹|念|称|回答|表示|指出|认为|解释|补充|强调|宣布|"
    "評論|评论|回应|提醒|提问|问道|告诉|透露|坦言|感叹|说明|說|問|講|寫|稱|嘆"
)
_SPEAKER = r"[^，。！？；：、\s“”「」『』!?;,:没不未]{0,8}"
_GOES_ON = rf"(?=[，、：,:的等]|[^\S\n]*{_SPEAKER}(?:{_SAYS}))"
_CLOSING = r"""[”’」』〉》】〕］）)\]}]"""
# A run of sentence-ending marks and whatever closes with it, or the end of a line. Marks inside a
# title or a bracket end nothing, and inside a quotation nothing where the sentence goes on behind
# it. A Latin full stop ends a sentence only behind a Chinese character (and its digits) and before
# white space: elsewhere it stands in numbers, addresses and names.
_MARKS = re.compile(
    rf"""《[^《》\n]*》|〈[^〈〉\n]*〉
    |(?<=[^\s。！？；!?…])（[^（）\n]{{0,200}}）
    |(?<![：:])[“‘「『][^“”‘’「」『』\n]*[。！？!?…｡][”’」』]{_GOES_ON}
    |(?P<end>
        [。！？；!?…｡]+(?:{_CLOSING}|["'*_]++(?!\w))*(?:{CITATION})*
        |(?<=[{HAN}”’」』）)])\.(?=\s)
        |(?<=[{HAN}])(?<!第)\d[\d.,]{{0,11}}\.(?=\s)
        |\n
    )""",
    re.VERBOSE,
)
_EMPHASIS = re.compile(r"\*{1,3}|_{1,2}")
_LATIN_END = re.compile(r"[.!?][\"'”’)]*\s+")
LATIN_WORDS = 3  # fewer are a name in a Chinese sentence: `Apple Inc. 是一家公司`


def chinese_starts(text: str) -> list[int]:
    """Where sentences of a block after its first begin: offsets, white space not skipped yet."""
    starts = [_behind_emphasis(text, m.end()) for m in _MARKS.finditer(text) if m["end"]]
    if latin_words(text) >= LATIN_WORDS:
        starts += _latin_ends(text, starts)
    return starts


def _behind_emphasis(text: str, start: int) -> int:
    """``start``, or what follows a mark of emphasis there that closes: `**他说：“好。”**完。`"""
    mark = _EMPHASIS.match(text, start)
    closes = mark and text.count(mark[0], 0, start) % 2
    return mark.end() if closes else start


def _latin_ends(text: str, starts: list[int]) -> list[int]:
    """Ends of whole Latin sentences that stand before a Chinese one."""
    found, edges = [], iter([*starts, len(text)])
    begin, edge = 0, next(edges)
    for match in _LATIN_END.finditer(text):
        while match.start() >= edge:
            begin, edge = edge, next(edges)
        sentence = text[begin : match.start()]
        if latin_words(sentence) >= LATIN_WORDS and not han_characters(sentence):
            found.append(match.end())
            begin = match.end()
    return found
