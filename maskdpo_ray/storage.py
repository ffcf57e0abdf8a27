"""A folder on a local disk or in an object store (``s3://``, ``gs://``), through pyarrow.

Every write is all or nothing: on a disk a file is written aside and renamed, in an object store
an upload becomes visible only when it is complete. A reader never meets half a file.
"""

import json
import os
import posixpath
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq


class Folder:
    """One folder, named by a local path or a URL. Cheap to pickle: it connects when first used."""

    def __init__(self, uri: str | os.PathLike) -> None:
        uri = os.fspath(uri)
        self.uri = uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
        self._opened: tuple[pafs.FileSystem, str] | None = None

    def __reduce__(self) -> tuple:
        return (Folder, (self.uri,))

    def __truediv__(self, name: str) -> "Folder":
        return Folder(posixpath.join(self.uri, name))

    def __str__(self) -> str:
        return self.uri

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    def _open(self) -> tuple[pafs.FileSystem, str]:
        if self._opened is None:
            self._opened = pafs.FileSystem.from_uri(self.uri)
        return self._opened

    def path(self, name: str) -> str:
        """The file's name as ``pyarrow.fs`` knows it."""
        return posixpath.join(self._open()[1], name)

    def names(self) -> list[str]:
        """Files and folders directly inside, sorted; empty where the folder does not exist."""
        filesystem, path = self._open()
        selector = pafs.FileSelector(path, allow_not_found=True)
        return sorted(info.base_name for info in filesystem.get_file_info(selector))

    def exists(self, name: str) -> bool:
        filesystem, _ = self._open()
        return filesystem.get_file_info(self.path(name)).type is not pafs.FileType.NotFound

    def read(self, name: str) -> bytes:
        filesystem, _ = self._open()
        with filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a whole file, atomically. An older file of that name is replaced."""
        filesystem, folder = self._open()
        target = self.path(name)
        if not self.is_local:
            with filesystem.open_output_stream(target) as stream:
                stream.write(content)
            return
        os.makedirs(folder, exist_ok=True)
        aside = posixpath.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with open(aside, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, target)
        except BaseException:
            if os.path.exists(aside):
                os.unlink(aside)
            raise

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write_table(self, name: str, table: pa.Table, row_group_size: int | None = None) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
        self.write(name, sink.getvalue())

    def open_parquet(self, name: str) -> pq.ParquetFile:
        filesystem, _ = self._open()
        return pq.ParquetFile(filesystem.open_input_file(self.path(name)))

    def remove(self, name: str) -> None:
        """Remove one file; no error where it is gone already."""
        filesystem, _ = self._open()
        if self.exists(name):
            filesystem.delete_file(self.path(name))
