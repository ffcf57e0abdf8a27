"""Pages out of a Wikipedia dump (``pages-articles``), as plain text.

The dump is read as a stream and its markup is taken off by mwparserfromhell. Templates go
unexpanded, info boxes among them, and so do tables, references, files and categories: what is
left is the running text.
"""

import bz2
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from maskdpo_ray.errors import UserError

if TYPE_CHECKING:
    from mwparserfromhell.wikicode import Wikicode

DUMP = re.compile(r"\.xml(?:-p\d+p\d+)?(?:\.bz2)?$")  # a part bears its first and last page id
BATCH = 2000  # pages in memory at once
DROPPED_TAGS = {"gallery", "math", "ref", "references", "table", "timeline"}
DROPPED_LINKS = {"file", "image", "category", "文件", "檔案", "图像", "圖像", "分类", "分類"}
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?")
_SWITCH = re.compile(r"__[A-Z]+__")
_EMPTY_BRACKETS = re.compile(r" ?[(（][\s,;，；]*[)）]")
_EMPTY_START = re.compile(r"(?<=[(（])[\s,;，；]+")  # a pronunciation stood there
_SURROGATE = re.compile("[\ud800-\udfff]")  # &#xD800; names one, and no database holds it


def read_dump(path: Path, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """Title and plain text of each article.

    Redirects, other namespaces and pages that mwparserfromhell cannot read are counted.

    Raises:
        UserError: the file is damaged, cut short or no dump; mwparserfromhell is missing; or a
            process that takes markup off was killed.
    """
    if find_spec("mwparserfromhell") is None:
        raise UserError(
            "a Wikipedia dump needs mwparserfromhell: pip install 'maskdpo-ray[factscore]'"
        )
    pages = _raw_pages(path, counts)
    # Taking the markup off takes far longer than reading; batches bound what is in memory.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        while batch := list(islice(pages, BATCH)):
            titles, texts = zip(*batch, strict=True)
            try:
                plain = pool.map(plain_text, texts, chunksize=50)
                for title, text in zip(titles, plain, strict=True):
                    if text is None:
                        counts["unreadable"] += 1
                    else:
                        yield title, text
            except BrokenProcessPool:
                raise UserError(
                    f"{path}: a process that takes markup off was ended from outside, somewhere "
                    f"from page {titles[0]!r} to {titles[-1]!r}. Most likely memory was short: "
                    "free some and run the command again; if it ends there every time, one of "
                    "these pages crashes the parser: take it out of the dump"
                ) from None


def plain_text(wikitext: str) -> str | None:
    """The running text of a page, paragraph by paragraph; None where the parser fails on it."""
    import mwparserfromhell

    try:
        text = _running_text(mwparserfromhell.parse(_SWITCH.sub("", wikitext)))
    # ParserError, RecursionError, or whatever else a page brings about: no reason to end the work
    # on millions of others.
    except Exception:
        return None
    text = _EMPTY_BRACKETS.sub("", _SURROGATE.sub("\ufffd", text))
    text = _EMPTY_START.sub("", text)
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _running_text(code: "Wikicode") -> str:
    for tag in code.filter_tags(matches=lambda tag: str(tag.tag).strip().lower() in DROPPED_TAGS):
        with suppress(ValueError):  # it stood in one that is gone already
            code.remove(tag)
    for link in code.filter_wikilinks(matches=lambda link: _is_dropped(str(link.title))):
        with suppress(ValueError):
            code.remove(link)
    return code.strip_code(normalize=True, collapse=True)


def _is_dropped(title: str) -> bool:
    namespace, colon, _ = title.strip().partition(":")
    name = namespace.strip().lower()
    return bool(colon) and (name in DROPPED_LINKS or bool(_LANGUAGE_LINK.fullmatch(name)))


def _raw_pages(path: Path, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    opened = bz2.open(path) if path.suffix == ".bz2" else open(path, "rb")
    with opened as file:
        try:
            events = ElementTree.iterparse(file, events=("start", "end"))
            _, root = next(events)
            for event, element in events:
                if event == "end" and _name(element) == "page":
                    if page := _article(element, counts):
                        yield page
                    root.clear()  # or the whole dump stays in memory
        except (ElementTree.ParseError, EOFError, OSError) as error:
            raise UserError(f"{path} is damaged or no Wikipedia dump: {error}") from None


def _article(page: ElementTree.Element, counts: Counter[str]) -> tuple[str, str] | None:
    found = {_name(element): element for element in page.iter()}
    title, text = found.get("title"), found.get("text")
    if "redirect" in found:
        counts["redirects"] += 1
    elif "ns" in found and found["ns"].text != "0":
        counts["other_namespaces"] += 1
    elif title is not None and title.text:
        return title.text, (text.text if text is not None else None) or ""
    return None


def _name(element: ElementTree.Element) -> str:
    """The tag without the namespace of the export format, which bears its version."""
    return element.tag.rpartition("}")[2]
