"""Words and patterns by which sentences are read, in text without accents (``plain``)."""

import re
import unicodedata
from collections.abc import Iterable
from difflib import SequenceMatcher

NUMBERS = (
    "no one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()
)
COMPASS = {"n": 0, "ne": 45, "e": 90, "se": 135, "s": 180, "sw": 225, "w": 270, "nw": 315}
DIRECTION = r"(?:north|south)?[- ]?(?:north|south|east|west)(?:ern)?(?:most)?"
CENTRAL = r"central|middle|mid|equatorial"
CONTINENT = r"Africa|Asia|Europe|America|Oceania"
WATER = re.compile(
    r"\b(?:(?:the|North|South|Northern|Southern|Eastern|Western|Central) )*"
    r"(?:[A-Z][\w']+ (?:and [A-Z][\w']+ )?(?:Ocean|Sea|Channel|Strait|Bay|Gulf|Coast)\b"
    r"|(?:Gulf|Bay|Strait|Sea|Straits) of (?:the )?[A-Z][\w']+(?: [A-Z][\w']+)?"
    r"|Mediterranean|Atlantic|Baltic|Persian Gulf|Caribbean Sea)"
)
BORDER = re.compile(
    r"\b(?:(?:shares?|sharing|has|have)(?: its| a| their| land| common| international| long)*"
    r" borders?(?: with)?|borders? with|bordered(?: by)?|bordering(?: on)?|"
    r"borders?(?: on)?|adjoins?|adjacent to|flanked by|surrounded by|"
    r"neighbou?r(?:s|ed|ing)?(?: countr(?:y|ies)| nations?| states?)?(?: of| include| are| is)?|"
    r"(?:sandwiched|nestled|lies|located|situated|country|nation|state|landlocked) between)\b",
    re.IGNORECASE,
)
CAPITAL = r"[Cc]apital(?: city)?"
LANGUAGE = re.compile(
    r"\b(?:languages?|speaks?|spoken|speaking|tongue|dialects?|multilingual|bilingual)\b"
)
MONEY = re.compile(
    r"\b(?:currenc(?:y|ies)|money|pays?|paid|legal tender|monetary|banknotes?|coins?)\b",
    re.IGNORECASE,
)
CUE_OF = {"border": BORDER, "language": LANGUAGE, "currency": MONEY}
NOT = re.compile(r"\b(?:not|never|no longer|neither|nor)\b|n't\b")
CUES = re.compile(
    rf"\b{CAPITAL}\b|{BORDER.pattern}|{LANGUAGE.pattern}|{MONEY.pattern}", re.IGNORECASE
)
# What a sentence may say beside its facts without saying more.
EMPTY = set(
    """
    a an the this that these those it its it's itself they their them there here he she his her
    is are was were be been being has have had do does did can could may might will would shall
    should must and or but so yet while whereas also both either only just very quite more much
    all each every other others another such same own as at by for from in into of off on onto
    to toward with within without along across around near over under between among through
    about which who whom whose what where when how why if then than because since although
    though therefore thus moreover furthermore additionally finally first second third last next
    country countries nation nations state states sovereign independent land continent world city
    cities town capital official officially main mainly primary primarily national predominant
    mostly widely commonly common language languages speak speaks spoken speaking people
    citizens residents currency currencies money pay pays paid use uses used using called known
    named referred name located situated lies lie lying found positioned sits stretches border
    borders bordered bordering neighbour neighbours neighbor neighbors neighboring neighbouring
    surrounded shares share sharing include includes including namely side sides island islands
    archipelago landlocked mentioned earlier follows following question answer short sentence
    total respectively currently actually specifically i however
    nestled system different dominant coins
    """.split()
)
# Opinions, not facts.
PRAISE = set(
    """
    beautiful vibrant rich diverse unique fascinating amazing stunning wonderful proud great
    picturesque charming lovely breathtaking ancient culture cultural cultures heritage history
    historical traditions tradition music art arts fashion food cuisine landscapes landscape
    scenery beauty natural nature famous renowned boasts boasting blend small little big large
    tiny tropical popular interesting friendly warm welcoming important dreams
    distinct practices prosperous heart steeped identity
    """.split()
)
SUPERLATIVE = re.compile(
    r"\b(?:larg|small|bigg|old|rich|high|long|poor)est\b|\bmost \w+\b|\bpopulous\b"
)
SELF_TALK = re.compile(
    r"^(?:\W*(?:I|I'm|I'll|I've|I'd|Let me|Let us|Let's|Sure|Certainly|Of course|Hello|Hi|Hey|"
    r"Thank|Thanks|Welcome|Please|As an AI|Here (?:is|are)|Note|Yes|No|OK|Okay)\b)|"
    r"\bI(?:'m| am| hope| can|'d be)\b|\b(?:hope this helps|feel free|this answer|your question)\b",
    re.IGNORECASE,
)
VERBS = set(
    """
    is are was were be been has have had do does did can could may might will would shall should
    must borders border lies lie speak speaks include includes use uses share shares consists
    makes made means said says became become becomes came comes goes go lived live gets get
    known called located refers serves stretches extends covers belongs features offers remains
    holds plays
    """.split()
)


LETTERS = str.maketrans({"’": "'", "‘": "'", "ı": "i", "ø": "o", "ł": "l", "đ": "d", "ß": "ss"})


def plain(text: str) -> str:
    """Without accents, with plain quotes and single spaces; as many words as before."""
    folded = unicodedata.normalize("NFKD", text.translate(LETTERS))
    kept = "".join(char for char in folded if not unicodedata.combining(char))
    return re.sub(r"\s+", " ", kept).strip()


def alternation(words: Iterable[str]) -> str:
    """The longest first, each whole."""
    return "|".join(re.escape(word) for word in sorted(words, key=lambda w: (-len(w), w)))


def similar(one: str, other: str) -> bool:
    """Whether the one may be the other, misspelt."""
    return SequenceMatcher(None, one.lower(), other.lower()).ratio() >= 0.8


def heading(words: str) -> str | None:
    """``n``, ``se`` and so on; None for none."""
    words = words.lower()
    ns = "n" if "north" in words else "s" if "south" in words else ""
    ew = "e" if re.search(r"east", words) else "w" if "west" in words else ""
    return ns + ew or None


def letters(text: str) -> str:
    """Letters and digits alone: "Washington, D.C." is "Washington DC"."""
    return re.sub(r"[\W_]", "", text).lower()


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
