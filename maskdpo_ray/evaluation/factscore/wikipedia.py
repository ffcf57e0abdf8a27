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
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from xml.etree import ElementTree

from maskdpo_ray.errors import UserError

DUMP = re.compile(r"\.xml(?:-p\d+p\d+)?(?:\.bz2)?$")  # a part bears its first and last page id
BATCH = 2000  # pages in memory at once
DROPPED_TAGS = {"gallery", "math", "ref", "references", "table", "timeline"}
DROPPED_LINKS = {"file", "image", "category", "文件", "檔案", "图像", "圖像", "分类", "分類"}
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?")
_SWITCH = re.compile(r"__[A-Z]+__")
_EMPTY_BRACKETS = re.compile(r" ?[(（][\s,;，；]*[)）]")
_EMPTY_START = re.compile(r"(?<=[(（])[\s,;，；]+")  # a pronunciation stood there


def read_dump(path: Path, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """Title and plain text of each article; redirects and other namespaces are counted.

    Raises:
        UserError: the file is damaged, cut short or no dump; or mwparserfromhell is missing.
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
            yield from zip(titles, pool.map(plain_text, texts, chunksize=50), strict=True)


def plain_text(wikitext: str) -> str:
    """The running text of a page, paragraph by paragraph."""
    import mwparserfromhell

    code = mwparserfromhell.parse(_SWITCH.sub("", wikitext))
    for tag in code.filter_tags(matches=lambda tag: str(tag.tag).strip().lower() in DROPPED_TAGS):
        with suppress(ValueError):  # it stood in one that is gone already
            code.remove(tag)
    for link in code.filter_wikilinks(matches=lambda link: _is_dropped(str(link.title))):
        with suppress(ValueError):
            code.remove(link)
    text = _EMPTY_BRACKETS.sub("", code.strip_code(normalize=True, collapse=True))
    text = _EMPTY_START.sub("", text)
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


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
