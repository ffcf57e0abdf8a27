"""Items numbered inside a paragraph: `Steps: 1. Mix it. 2. Bake it.`"""

import re

_NUMBER = re.compile(
    r"(?:(?<=\s)|(?<=[:：;；。！？])|^)[（(]?(?P<number>\d{1,2})(?:[.)](?:\[\d{1,3}\])?\s+|[、．）]\s*)(?=\S)"
)
_AFTER_END = re.compile(r"""[.:;!?。：；！？…]["'”’」』)）\]*_]*\s*$""")


def enumerated(text: str) -> list[int]:
    """Where items begin that count up from 1 inside a block: offsets of their numbers.

    The first stands behind a colon or the end of a sentence, or opens the block. Each of the others
    stands behind such an end too, or, where items have no full stops, there are at least three.
    One number alone is no enumeration: `He was ranked no. 1. He won.`
    """
    ended: list[int] = []
    loose: list[int] = []
    for match in _NUMBER.finditer(text):
        number, start = int(match["number"]), match.start()
        opens = not text[:start].strip() or _AFTER_END.search(text, max(0, start - 16), start)
        if number == 1 and opens:
            if len(ended) >= 2 or len(loose) >= 3:
                continue  # the first enumeration of a block counts
            ended, loose = [start], [start]
            continue
        if ended and number == len(ended) + 1 and opens:
            ended.append(start)
        if loose and number == len(loose) + 1:
            loose.append(start)
    found = ended if len(ended) >= max(2, len(loose)) else loose if len(loose) >= 3 else []
    return found or (ended if len(ended) >= 2 else [])
