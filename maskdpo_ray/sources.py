"""Rows of a JSONL, JSON or Parquet file, of a folder of Parquet files, or of a data set.

Which of them a path names is seen from its ending, then from what lies there; what is neither file
nor folder and looks like the id of a data set is one on the hub, read by the ``datasets`` library.
"""

import gzip
import hashlib
import io
import json
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maskdpo_ray.config import ColumnsConfig, SourceConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder, open_file

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SPLIT_IN_NAME = re.compile(r"(train|test|validation|valid|dev|eval)[-_.]")
SAVED_BY_DATASETS = ("dataset_dict.json", "state.json")  # marks of `save_to_disk`
BATCH = 1024  # rows of a Parquet file or data set in memory at once

Row = tuple[str, dict[str, Any]]


class Source:
    """Rows, each with the words that name its place in errors.

    Args:
        given: a path, URL or data set id, or the section that holds one.
        columns: names of our fields in the data. Without it a row comes with all its columns;
            with it a row holds our fields only, as far as the data has them.
        split: of a data set whose section names none.
        what: one row is, for errors.
        key: the setting that ``given`` comes from, for errors.
        columns_key: the setting that ``columns`` come from, for errors.
    """

    def __init__(
        self,
        given: str | os.PathLike | SourceConfig,
        columns: ColumnsConfig | None = None,
        split: str = "train",
        what: str = "question",
        key: str = "data.train",
        columns_key: str = "data.columns",
    ) -> None:
        if not isinstance(given, SourceConfig):
            given = SourceConfig(path=os.fspath(given))
        self.path = given.path if "://" in given.path else os.path.expanduser(given.path)
        self._given, self._split, self._what, self._key = given, split, what, key
        self._columns, self._columns_key = columns, columns_key

    def __str__(self) -> str:
        if self._kind != "dataset":
            return self.path
        return str(self._given.model_copy(update={"split": self._given.split or self._split}))

    @property
    def columns(self) -> dict[str, str]:
        """The fields whose column has another name; what is read depends on these."""
        return self._columns.renamed() if self._columns else {}

    # -- which kind of data ---------------------------------------------------------------------

    @cached_property
    def _kind(self) -> str:
        """``jsonl``, ``json``, ``parquet`` or ``dataset``."""
        bare = self.path.removesuffix(".gz")
        if bare.endswith((".jsonl", ".ndjson")):
            return "jsonl"
        if bare.endswith(".json"):
            return "json"
        if self.path.endswith(".parquet"):
            return "parquet"
        asked = self._given.changed("name", "split", "revision")
        if "://" in self.path or os.path.isfile(self.path):
            if asked:
                raise UserError(
                    f"{self._key}: {asked[0]} is of a data set, and {self.path} is none: remove it"
                )
            return "parquet" if self._folder_parts else "jsonl"
        if os.path.isdir(self.path):
            saved = any(os.path.exists(f"{self.path}/{name}") for name in SAVED_BY_DATASETS)
            return "parquet" if self._folder_parts and not saved and not asked else "dataset"
        if HUB_ID.fullmatch(self.path) and not self.path.startswith("."):
            return "dataset"
        raise UserError(f"no {self._what} file at {self.path}: no such file or folder")

    @cached_property
    def _folder_parts(self) -> list[str]:
        """Parquet files directly in the folder; empty where the path is none."""
        if os.path.isfile(self.path):
            return []
        try:
            names = Folder(self.path).names()
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreachable(error) from None
        return [n for n in names if n.endswith(".parquet") and not n.startswith((".", "_"))]

    def _parquet_files(self) -> list[str]:
        """A single file, or those of a folder by name.

        Raises:
            UserError: the files of a folder are of several splits.
        """
        splits = {m[1] for n in self._folder_parts if (m := SPLIT_IN_NAME.match(n))}
        if len(splits) > 1:
            raise UserError(
                f"{self.path} holds files of several splits ({', '.join(sorted(splits))}): name "
                f"one with {self._key}.split, or give the path of a file"
            )
        return [posixpath.join(self.path, name) for name in self._folder_parts] or [self.path]

    # -- content --------------------------------------------------------------------------------

    def digest(self) -> str:
        """SHA-256, in hex: of the bytes of files, and of what is read of a data set's rows.

        Raises:
            UserError: there is nothing to read.
        """
        if self._kind == "dataset":
            digest = hashlib.sha256()
            for _, row in self._dataset_rows():
                line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=_refuse_value)
                digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
            return digest.hexdigest()
        files = self._parquet_files() if self._kind == "parquet" else [self.path]
        digests = []
        for path in files:
            with self._opened(path) as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def rows(self) -> Iterator[Row]:
        """Every row in order, with the words for its place.

        A Parquet file or data set cannot leave a key out: its nulls are taken for that.

        Raises:
            UserError: no such file or data set, content that is not of its kind, or a column that
                was named and is not there.
        """
        if self._columns is None:
            yield from self._records()
            return
        self._check_columns(self.columns)
        names = self._columns.model_dump()
        for place, record in self._records():
            found = {o: record[theirs] for o, theirs in names.items() if theirs in record}
            if "question" not in found:
                raise UserError(f"{place}: {self._no_question(record)}")
            yield place, found

    def _check_columns(self, renamed: dict[str, str]) -> None:
        if not renamed and self._kind in ("jsonl", "json"):
            return  # nothing to look for: a row without a question is named by its line
        there = self._column_names()
        for ours, theirs in renamed.items():
            if theirs not in there:
                raise UserError(
                    f"{self._columns_key}.{ours}: {self} has no column {theirs!r}; it has: "
                    f"{', '.join(there)}"
                )
        if there and self._columns.question not in there:
            raise UserError(f"{self}: {self._no_question(there)}")

    def _no_question(self, there: Any) -> str:
        return (
            f"key {self._columns.question!r} is missing; there are: {', '.join(there) or 'none'}. "
            f"Name the one that holds the question: {self._columns_key}.question=NAME"
        )

    def _column_names(self) -> list[str]:
        if self._kind == "dataset":
            return list(self._dataset.column_names)
        if self._kind == "parquet":
            first = self._parquet_files()[0]
            with self._parquet(first) as file:
                return file.schema_arrow.names
        return list(dict.fromkeys(key for _, record in self._records() for key in record))

    def _records(self) -> Iterator[Row]:
        read = {
            "jsonl": self._lines,
            "json": self._list,
            "parquet": self._parquet_rows,
            "dataset": self._dataset_rows,
        }
        return read[self._kind]()

    # -- JSON -----------------------------------------------------------------------------------

    def _lines(self) -> Iterator[Row]:
        with self._opened(self.path) as lines:
            for number, line in enumerate(_whole(lines, self.path), start=1):
                if line.strip():
                    place = f"{self.path} line {number}"
                    yield place, _object(_json(line, place), place)

    def _list(self) -> Iterator[Row]:
        with self._opened(self.path) as file:
            content = b"".join(_whole(file, self.path))
        try:
            rows = _json(content, self.path)
        except UserError as error:
            raise UserError(f"{error}; a file of one object a line is named .jsonl") from None
        if not isinstance(rows, list):
            raise UserError(
                f"{self.path} must hold a list of objects, not {type(rows).__name__}; one object "
                "a line is a .jsonl"
            )
        for number, row in enumerate(rows, start=1):
            place = f"{self.path} row {number}"
            yield place, _object(row, place)

    def _opened(self, path: str) -> io.BufferedIOBase:
        try:
            return open_file(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UserError:
        reason = getattr(error, "strerror", None) or error
        return UserError(f"no {self._what} file at {self.path}: {reason}")

    # -- Parquet --------------------------------------------------------------------------------

    def _parquet_rows(self) -> Iterator[Row]:
        for path in self._parquet_files():
            number = 0
            with self._parquet(path) as file:
                names = file.schema_arrow.names
                if self._columns is not None:
                    names = [name for name in names if name in self._read_columns]
                for batch in file.iter_batches(BATCH, columns=names):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path} row {number}", _without_nulls(row, self._columns)

    @contextmanager
    def _parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        folder = Folder(posixpath.dirname(path) or ".")
        try:
            stream = folder.filesystem.open_input_file(folder.path(posixpath.basename(path)))
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreachable(error) from None
        try:
            with stream, pq.ParquetFile(stream) as file:
                yield file
        except (pa.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is no whole Parquet file: {reason}") from None

    # -- data sets ------------------------------------------------------------------------------

    @property
    def _read_columns(self) -> set[str]:
        return set(self._columns.model_dump().values())

    @cached_property
    def _dataset(self) -> Any:
        try:
            import datasets
        except ModuleNotFoundError:
            raise UserError(
                f"{self._key}: {self.path} is no file, and what reads data sets is not installed: "
                "pip install 'maskdpo-ray[datasets]', or give a .jsonl or .parquet file"
            ) from None
        given, split = self._given, self._given.split or self._split
        try:
            if any(os.path.exists(f"{self.path}/{name}") for name in SAVED_BY_DATASETS):
                return self._saved(datasets.load_from_disk(self.path), split)
            return datasets.load_dataset(
                self.path, given.name, split=split, revision=given.revision
            )
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split())
            here = "" if os.path.isdir(self.path) else ", and there is no such file or folder here"
            raise UserError(f"{self._key}: data set {self}: {reason}{here}") from None

    def _saved(self, loaded: Any, split: str) -> Any:
        """One split of what ``save_to_disk`` wrote: a data set, or one for each split."""
        if asked := self._given.changed("name", "revision"):
            raise UserError(
                f"{self._key}: {asked[0]} is of a data set on the hub, and {self.path} is a saved "
                "one: remove it"
            )
        if not isinstance(loaded, dict):
            if self._given.split:
                raise UserError(f"{self._key}: {self.path} has no splits: remove split")
            return loaded
        if split not in loaded:
            raise ValueError(f"no split {split!r}; there are: {', '.join(loaded)}")
        return loaded[split]

    def _dataset_rows(self) -> Iterator[Row]:
        data = self._dataset.with_format(None)
        if self._columns is not None:
            data = data.select_columns(
                [name for name in data.column_names if name in self._read_columns]
            )
        for number, row in enumerate(data, start=1):
            yield f"{self} row {number}", _without_nulls(row, self._columns)


def _json(text: bytes, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except KeyError as error:
        raise UserError(
            f"{place}: {error} stands twice in one object: only one would count; merge the two"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is not JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{place} is nested too deeply to be read: flatten it") from None
    except ValueError:  # Python's limit on the digits of a whole number
        raise UserError(
            f"{place} holds a whole number of thousands of digits: write it as a text, or leave it "
            "out"
        ) from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ``KeyError`` where a name stands twice: the first would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return found


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place} must be a JSON object, not {type(row).__name__}")
    return row


def _whole(file: io.BufferedIOBase, path: str) -> Iterator[bytes]:
    """The lines of a file, unpacked where its name ends in ``.gz``.

    Raises:
        UserError: it is cut short or no gzip file.
    """
    if not path.endswith(".gz"):
        yield from file
        return
    try:
        with gzip.open(file) as unpacked:
            yield from unpacked
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise UserError(f"{path} is no whole gzip file: {error}") from None


def _without_nulls(row: dict[str, Any], columns: ColumnsConfig | None) -> dict[str, Any]:
    """A row without its nulls; a question that is null is there and empty."""
    given = {key: value for key, value in row.items() if value is not None}
    if columns is not None and columns.question in row:
        given.setdefault(columns.question, "")
    return given


def _refuse_value(value: Any) -> Any:
    raise UserError(
        f"a data set's column holds {type(value).__name__}, which is neither text nor a list: "
        "name the columns to read with data.columns"
    )
