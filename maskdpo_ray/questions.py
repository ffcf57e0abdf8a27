"""Questions in: a JSONL file, checked line by line, into the first store of a run.

One object a line: ``question`` and optionally ``id``, ``topic``, ``document``, ``language``
(``en`` unless said) and ``candidates``, a list of ``{"response", "model"?, "sentences"?}`` whose
sentences are ``{"start", "end", "label"}``. Other keys are left alone. A line without ``id`` is
named by its content, and without ``topic`` its question is its topic (the released evaluation's
input has neither).
"""

import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from maskdpo_ray.config import DataConfig
from maskdpo_ray.errors import RowRejected, UserError
from maskdpo_ray.preference.public_format import read_public
from maskdpo_ray.progress import say
from maskdpo_ray.records import Candidate, Question
from maskdpo_ray.rundir import StageStore, fingerprint
from maskdpo_ray.storage import open_file

LANGUAGES = ("en", "zh")
ROWS_PER_PART = 512


def read_questions(
    path: str | Path, limit: int | None = None
) -> Iterator[tuple[str, Question | RowRejected]]:
    """Each line's id with its row, or with the reason why it cannot be used.

    Raises:
        UserError: the file is missing or empty, a line is no JSON object, a key is missing or has
            the wrong type, or an id stands twice; the message names the line.
    """
    seen: dict[str, int] = {}
    with _opened(path, "question") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if limit is not None and len(seen) == limit:
                break
            row = _parse(line, f"{path} line {number}")
            # What cannot be written cannot name a row: it leaves the run under its escaped form.
            row_id = _writable(row["id"])
            if row_id in seen:
                raise UserError(
                    f"{path} line {number}: id {row_id!r} stands in line {seen[row_id]} already; "
                    "give every question its own id"
                )
            seen[row_id] = number
            yield row_id, _normalise(row, f"{path} line {number}")
    if not seen:
        raise UserError(f"{path} holds no question")


def _opened(path: str | Path, what: str) -> BinaryIO:
    try:
        return open_file(path)
    except OSError as error:
        raise UserError(f"no {what} file at {path}: {error.strerror or error}") from None


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{place} must be a JSON object, not {type(row).__name__}")
    if "question" not in row:
        raise UserError(f"{place}: key 'question' is missing")
    for key in ("question", "id", "topic", "document", "language"):
        optional = key in ("document", "language") and row.get(key) is None
        if key in row and not optional and not isinstance(row[key], str):
            raise UserError(f"{place}: {key!r} must be a string, not {type(row[key]).__name__}")
    row = {"topic": row["question"], **row}
    if "id" not in row:
        content = (row["topic"], row["question"], row.get("document") or "")
        row["id"] = fingerprint(*map(_writable, content))
    if not row["id"].strip():
        raise UserError(f"{place}: 'id' is empty; give every question its own id")
    return row


def _writable(text: str) -> str:
    """The text, what no UTF-8 can hold escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _normalise(row: dict[str, Any], place: str) -> Question | RowRejected:
    language = row.get("language") or "en"
    if language not in LANGUAGES:
        return RowRejected(
            "unknown_language", f"{place}: language {language!r}; known: {', '.join(LANGUAGES)}"
        )
    given = row.get("candidates") or []
    try:
        if not isinstance(given, list):
            raise TypeError(f"'candidates' must be a list, not {type(given).__name__}")
        candidates = [_candidate(index, each) for index, each in enumerate(given)]
    except KeyError as error:
        return RowRejected("malformed_candidate", f"{place}: a candidate has no key {error}")
    except (TypeError, ValueError) as error:
        return RowRejected("malformed_candidate", f"{place}: {error}")
    return _readable(
        {
            "id": row["id"],
            "topic": row["topic"],
            "question": row["question"],
            "document": row.get("document"),
            "language": language,
            "candidates": candidates,
        },
        place,
    )


def _readable(row: Question, place: str) -> Question | RowRejected:
    """The row, unless it has nothing to ask or text that is no Unicode."""
    texts = [row["id"], row["topic"], row["question"], row["document"] or ""]
    for candidate in row["candidates"]:
        texts += [candidate["response"], candidate["model"]]
        texts += [sentence["verdict"] for sentence in candidate["sentences"]]
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        return RowRejected("not_unicode", f"{place}: a lone surrogate; re-encode the text")
    if not row["question"].strip():
        return RowRejected("empty_question", f"{place}: the question is empty")
    return row


def _candidate(index: int, given: Any) -> Candidate:
    if not isinstance(given, dict):
        raise TypeError(f"candidate {index} must be an object, not {type(given).__name__}")
    response = _typed(given["response"], str, f"response of candidate {index}")
    sentences = _typed(given.get("sentences") or [], list, f"sentences of candidate {index}")
    for sentence in sentences:
        _typed(sentence, dict, f"a sentence of candidate {index}")
        _typed(sentence["label"], str, f"a label of candidate {index}")
        for end in ("start", "end"):
            _typed(sentence[end], int, f"{end} of a sentence of candidate {index}")
        if not 0 <= sentence["start"] <= sentence["end"] <= len(response):
            raise ValueError(
                f"candidate {index} of {len(response)} characters has a sentence at "
                f"{sentence['start']}:{sentence['end']}"
            )
    return {
        "index": index,
        "seed": 0,
        "model": _typed(given.get("model") or "input", str, f"model of candidate {index}"),
        "response": response,
        "token_ids": [],
        "finish_reason": "input",
        "decoding": "input",
        "sentences": [
            {
                "start": sentence["start"],
                "end": sentence["end"],
                "verdict": sentence["label"],
                "detail": "given with the input",
            }
            for sentence in sentences
        ],
    }


def _typed(value: Any, kind: type, what: str) -> Any:
    """The value, if it is of its kind: text made of something else would be trained on."""
    if type(value) is not kind:
        raise TypeError(f"{what} must be {kind.__name__}, not {type(value).__name__}")
    return value


def read_pairs(
    path: str | Path, limit: int | None = None
) -> Iterator[tuple[str, Question | RowRejected]]:
    """Preference pairs in the public format, as questions with two labelled candidates.

    Raises:
        UserError: the file is missing or empty, or a line is not of the format.
    """
    _opened(path, "pair").close()
    count = 0
    for row in islice(read_public(path), limit):
        count += 1
        yield row["id"], _readable(row, f"{path} pair {row['id']!r}")
    if not count:
        raise UserError(f"{path} holds no pair")


READERS = {"questions": read_questions, "pairs": read_pairs}


def import_questions(
    path: str, data: DataConfig, store: StageStore, group: int, versions: dict
) -> None:
    """Bring a question file into ``store``; nothing to do where that happened already."""
    for line in store.drop_damaged():
        say(line)
    if store.complete and not store.lacks_rows():
        return
    begun = time.perf_counter()
    ids: list[str] = []
    rows = READERS[data.format](path, data.limit)
    while batch := list(islice(rows, ROWS_PER_PART)):
        if not ids:  # a file that is refused at its head leaves no trace
            store.begin(versions)
        ids += [row_id for row_id, _ in batch]
        rejected = [(row_id, row) for row_id, row in batch if isinstance(row, RowRejected)]
        kept = [row for _, row in batch if not isinstance(row, RowRejected)]
        store.write([row_id for row_id, _ in batch], kept, rejected, group)
    store.finish_rows(ids, time.perf_counter() - begun)


def check_disjoint(train: StageStore, test: StageStore) -> None:
    """No topic and no question of the test file may be trained on (paper, section 2.2).

    Raises:
        UserError: names what overlaps.
    """
    for what in ("topic", "question"):
        trained = {row[what].strip().casefold() for row in train.rows()}
        shared = [r for r in test.rows() if r[what].strip().casefold() in trained]
        if shared:
            raise UserError(
                f"data.test: {len(shared)} rows share a {what} with data.train, "
                f"first {shared[0][what]!r} (id {shared[0]['id']}); remove them from one file"
            )
