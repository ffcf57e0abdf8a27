"""The knowledge source: an SQLite database of pages, ``documents(title PRIMARY KEY, text)``.

The one that FActScore published is of this form, and so is what ``build_knowledge`` makes. A
database that it finished also says in ``about`` what it was made of, which names it to
fingerprints without a look at its whole content; so do not edit one, build another. And it can be
searched: SQLite's full-text search (FTS5) over the words of all pages.
"""

import hashlib
import json
import os
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import UserError
from maskdpo_ray.knowledge.passages import words
from maskdpo_ray.knowledge.wikipedia import DUMP, read_dump
from maskdpo_ray.sources import Source

TABLE = "CREATE TABLE documents (title TEXT PRIMARY KEY, text TEXT NOT NULL)"
ABOUT = "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
# Without the text itself, but with the places of words (detail): without, bm25() is 0. Chinese is a
# word a character, as in passages.
SEARCH = "CREATE VIRTUAL TABLE search USING fts5(words, content='')"
VOCABULARY = "CREATE VIRTUAL TABLE vocabulary USING fts5vocab(search, 'row')"
RAREST = 12  # words of a query that are searched for: the rarest tell most, common ones cost most
ROWS = re.compile(r"\.(jsonl|json|ndjson)(\.gz)?$|\.parquet$")
TELL = 100_000  # pages between two lines of progress

Page = tuple[str, str]  # title and text


class Knowledge:
    """A database of pages, opened to be read.

    Raises:
        UserError: there is none at ``path``, or it has other tables.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._database = _open(self.path)

    def page(self, title: str) -> str | None:
        """The page of a topic, or None.

        Titles are matched exactly after Unicode normalisation (NFC), with a capital first letter
        where the title as it stands has no page.
        """
        title = unicodedata.normalize("NFC", title.strip())
        for name in dict.fromkeys((title, title[:1].upper() + title[1:])):
            query = "SELECT text FROM documents WHERE title = ?"
            if found := self._database.execute(query, (name,)).fetchone():
                return found[0]
        return None

    @property
    def searchable(self) -> bool:
        """Whether it can be searched: one that another program made cannot."""
        query = "SELECT COUNT(*) FROM sqlite_master WHERE name IN ('search', 'vocabulary')"
        return self._database.execute(query).fetchone() == (2,)

    def search(self, query: str, pages: int) -> list[Page]:
        """The pages closest to a query by BM25 over their words, the closest first, at most so
        many; none where no page has a word of it."""
        count = "SELECT doc FROM vocabulary WHERE term = ?"
        known = {
            word: found[0]
            for word in dict.fromkeys(words(query))
            if (found := self._database.execute(count, (word,)).fetchone())
        }
        rarest = sorted(known, key=lambda word: (known[word], word))[:RAREST]
        if not rarest:
            return []
        match = " OR ".join(f'"{word}"' for word in rarest)
        found = self._database.execute(
            "SELECT rowid FROM search WHERE search MATCH ? ORDER BY bm25(search), rowid LIMIT ?",
            (match, pages),
        ).fetchall()
        page = "SELECT title, text FROM documents WHERE rowid = ?"
        return [self._database.execute(page, row).fetchone() for row in found]


@cache  # of a database that was made elsewhere it reads every byte
def knowledge_identity(path: str) -> str:
    """A name for the content of a database.

    Raises:
        UserError: as ``Knowledge``.
    """
    with closing(_open(Path(path))) as database:
        try:
            query = "SELECT value FROM about WHERE key = 'sha256'"
            if found := database.execute(query).fetchone():
                return f"pages:{found[0]}"
        except sqlite3.OperationalError:
            pass  # made by another program
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def build_knowledge(
    out: str | Path,
    sources: Sequence[str | Path],
    progress: Callable[[str], None] | None = None,
    search: bool = True,
) -> dict[str, int]:
    """Make a database of the pages in ``sources``, whole or not at all.

    Args:
        sources: files of rows with ``title`` and ``text`` (``.jsonl``, ``.json``, ``.parquet``), or
            of a Wikipedia dump ``pages-articles`` (``.xml`` or ``.xml.bz2``, whole or in parts), or
            another database (``.db``), to make one that can be searched of it.
        progress: called with a line now and then; a whole dump takes hours.
        search: over all pages, for topics that have none.

    Returns:
        Counts: ``pages``, and by reason what was left out (``empty``; of a dump also
        ``redirects``, ``other_namespaces`` and ``unreadable``, where the parser fails).

    Raises:
        UserError: ``out`` exists, a source is missing, damaged or of another kind, a title stands
            twice, there is no page at all, the disk is full, or a process that reads a dump was
            killed.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists: remove it, or name another file")
    counts: Counter[str] = Counter()
    readers = [_reader(Path(source), counts) for source in sources]
    pages = (page for reader in readers for page in reader)
    return write_pages(out, pages, counts, progress, search)


def write_pages(
    out: Path,
    pages: Iterable[Page],
    counts: Counter[str],
    progress: Callable[[str], None] | None = None,
    search: bool = True,
) -> dict[str, int]:
    """Write the database beside its name and rename it when it is complete.

    Raises:
        UserError: as ``build_knowledge``.
    """
    unfinished = out.with_name(f"{out.name}.unfinished")
    digest = hashlib.sha256()
    counts["pages"] = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        with closing(sqlite3.connect(unfinished, isolation_level=None)) as database:
            # It is thrown away unless it is finished, so nothing in it needs to survive.
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(TABLE)
            database.execute(ABOUT)
            if search:
                database.execute(SEARCH)
                database.execute(VOCABULARY)
            database.execute("BEGIN")
            for page in _filled(pages, counts):
                _insert(database, page, search)
                counts["pages"] += 1
                if progress and counts["pages"] % TELL == 0:
                    progress(f"{counts['pages']} pages")
                digest.update(json.dumps(page).encode())
            database.execute("INSERT INTO about VALUES ('sha256', ?)", (digest.hexdigest(),))
            database.execute("COMMIT")
        if not counts["pages"]:
            raise UserError(f"no page for {out}: {_left_out(counts)}")
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, out)
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(f"cannot make {out}: {error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return dict(counts)


def read_pages(path: Path) -> Iterator[Page]:
    """Pages from rows with a ``title`` and a ``text``.

    Raises:
        UserError: names the file and the row that is no page.
    """
    for place, row in Source(path, what="page").rows():
        yield _page(row, place)


def _page(row: dict[str, Any], place: str) -> Page:
    for key in ("title", "text"):
        if not isinstance(row.get(key), str):
            raise UserError(f"{place}: {key!r} is missing or no text")
        try:
            row[key].encode()
        except UnicodeEncodeError:
            raise UserError(f"{place}: {key!r} holds a lone surrogate") from None
    if not row["title"].strip():
        raise UserError(f"{place}: the title is empty")
    return row["title"], row["text"]


def _reader(path: Path, counts: Counter[str]) -> Iterator[Page]:
    if not path.is_file():
        raise UserError(f"no file of pages at {path}")
    if DUMP.search(path.name):
        return read_dump(path, counts)
    if ROWS.search(path.name):
        return read_pages(path)
    if path.suffix == ".db":
        return _read_database(path)
    raise UserError(
        f"{path}: pages come from .jsonl, .json or .parquet, from a dump .xml or .xml.bz2, or from "
        "another database .db"
    )


def _read_database(path: Path) -> Iterator[Page]:
    with closing(_open(path)) as database:
        yield from database.execute("SELECT title, text FROM documents ORDER BY rowid")


def _filled(pages: Iterable[Page], counts: Counter[str]) -> Iterator[Page]:
    for title, text in pages:
        if text.strip():
            yield unicodedata.normalize("NFC", title.strip()), text
        else:
            counts["empty"] += 1


def _insert(database: sqlite3.Connection, page: Page, search: bool) -> None:
    try:
        row = database.execute("INSERT INTO documents VALUES (?, ?)", page).lastrowid
        if search:
            text = " ".join(words("\n".join(page)))
            database.execute("INSERT INTO search (rowid, words) VALUES (?, ?)", (row, text))
    except sqlite3.IntegrityError:
        raise UserError(f"the title {page[0]!r} stands twice: join the two pages") from None


def _left_out(counts: Counter[str]) -> str:
    reasons = [f"{count} {reason}" for reason, count in counts.items() if reason != "pages"]
    return ", ".join(reasons) or "the sources are empty"


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise UserError(f"no knowledge database at {path}: make one with maskdpo knowledge")
    # Immutable: nobody writes to a finished database, and network disks may not know locks.
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    database = sqlite3.connect(uri, uri=True, check_same_thread=False)
    try:
        database.execute("SELECT title, text FROM documents LIMIT 1").fetchone()
    except sqlite3.DatabaseError as error:
        database.close()
        raise UserError(
            f"{path} is no knowledge database, documents(title, text): {error}"
        ) from None
    return database
