"""Fingerprints, and what a file of rows notes of them: the digest of each row, and of the row that
it was made of."""

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MADE, MADE_OF = b"maskdpo.rows", b"maskdpo.made_of"  # in the metadata of a file, by id
Digests = Mapping[str, str]  # by id
Coming = Mapping[str, str | None]  # rows by id with their digests; None: not noted
NOTHING_NOTED: Digests = MappingProxyType({})


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits of SHA-256 over the canonical JSON of ``parts``."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def noting(table: pa.Table, notes: Mapping[bytes, Digests]) -> pa.Table:
    """The table with notes for the file that it is written to."""
    return table.replace_schema_metadata({key: json.dumps(each) for key, each in notes.items()})


def noted(file: pq.ParquetFile, key: bytes) -> dict[str, str]:
    """The digests that a file notes; none where it is of before there were any."""
    return json.loads((file.schema_arrow.metadata or {}).get(key, b"{}"))


def differ(was: str | None, now: str | None) -> bool:
    """Whether two digests are known and not the same."""
    return None not in (was, now) and was != now
