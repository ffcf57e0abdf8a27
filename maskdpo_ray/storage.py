"""A folder on a local disk or in an object store (``s3://``, ``gs://``), through pyarrow.

Every write is all or nothing: on a disk a file is written aside and renamed, in an object store
an upload becomes visible only when it is complete. A reader never meets half a file.

S3 is reached as the AWS tools reach it: keys, region and ``AWS_ENDPOINT_URL`` (a store that is not
Amazon's) come from the environment or from ``~/.aws``.
"""

import errno
import io
import json
import os
import posixpath
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from maskdpo_ray.errors import UserError

# The SDK repeats a request that the store refused for now (503, 500, a broken connection), waiting
# about 1, 2, 4, 8 and 16 s at most in between; Arrow's own strategy gives up after 6 s.
S3_ATTEMPTS = 6
# What a disk, above all a network file system, may answer once and not again. Not ENOSPC: a full
# disk stays full until somebody makes room.
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET}
DISK_WAITS = (0.5, 2.0, 8.0)  # seconds before the second, third and fourth attempt


class DamagedFile(UserError):
    """A file that is there and cannot be read: cut short, or with damaged content."""


class Folder:
    """One folder, named by a local path or a URL. Cheap to pickle: it connects when first used."""

    def __init__(self, uri: str | os.PathLike) -> None:
        uri = os.fspath(uri)
        if "?" in uri and "://" in uri:
            raise UserError(
                f"{uri}: a storage URL takes no options; set AWS_ENDPOINT_URL, AWS_REGION and keys "
                "in the environment"
            )
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
            s3 = self.uri.startswith("s3://")
            self._opened = _open_s3(self.uri) if s3 else pafs.FileSystem.from_uri(self.uri)
        return self._opened

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._open()[0]

    def path(self, name: str) -> str:
        """The file's name as ``pyarrow.fs`` knows it."""
        return posixpath.join(self._open()[1], name)

    def names(self) -> list[str]:
        """Files and folders directly inside, sorted; empty where the folder does not exist."""
        filesystem, path = self._open()
        selector = pafs.FileSelector(path, allow_not_found=True)
        while True:
            try:
                return sorted(info.base_name for info in filesystem.get_file_info(selector))
            except FileNotFoundError:  # made between Arrow's two looks: not listed, yet it exists
                continue

    def exists(self, name: str) -> bool:
        filesystem, _ = self._open()
        return filesystem.get_file_info(self.path(name)).type is not pafs.FileType.NotFound

    def read(self, name: str) -> bytes:
        filesystem, _ = self._open()
        with filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a whole file, atomically. An older file of that name is replaced."""
        if not self.is_local:
            with ThreadPoolExecutor(1) as own_thread:
                own_thread.submit(_upload, self.filesystem, self.path(name), content).result()
            return
        for wait in DISK_WAITS:
            try:
                return self._write_aside(name, content)
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                time.sleep(wait)
        self._write_aside(name, content)

    def _write_aside(self, name: str, content: bytes | pa.Buffer) -> None:
        folder = self.path("")
        os.makedirs(folder, exist_ok=True)
        aside = posixpath.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with open(aside, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, self.path(name))
        except BaseException:
            if os.path.exists(aside):
                os.unlink(aside)
            raise

    def read_json(self, name: str) -> Any:
        """A JSON file. Raises ``ValueError`` where it is none."""
        # An object's size and its content are asked for one after the other: one that is replaced
        # in between comes torn.
        for _ in range(0 if self.is_local else 3):
            try:
                return json.loads(self.read(name))
            except ValueError:
                continue
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """One JSON object a line, Unicode as it is."""
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.write(name, "".join(lines).encode())

    def write_table(self, name: str, table: pa.Table, row_group_size: int | None = None) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(
            table,
            sink,
            compression="zstd",
            row_group_size=row_group_size,
            write_page_checksum=True,
        )
        self.write(name, sink.getvalue())

    @contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file, open for reading.

        Raises:
            DamagedFile: here or while it is read: it is cut short or does not match its checksums.
        """
        source = self.filesystem.open_input_file(self.path(name))
        try:
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                yield file
        except (pa.ArrowInvalid, OSError) as error:
            # A store that does not answer, or a file that went away, says nothing of its content.
            if getattr(error, "errno", None) or "AWS Error" in str(error):
                raise
            raise DamagedFile(
                f"{self}/{name} is damaged ({str(error).splitlines()[0]}): remove it and run the "
                "command of its stage, or `maskdpo run`, again; only its rows are done again"
            ) from None

    def remove(self, name: str) -> None:
        """Remove one file; no error where it is gone already."""
        filesystem, _ = self._open()
        if self.exists(name):
            filesystem.delete_file(self.path(name))

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all that is in it; no error where there is none."""
        filesystem, _ = self._open()
        if self.exists(name):
            filesystem.delete_dir(self.path(name))


@contextmanager
def usable(folder: Folder) -> Iterator[None]:
    """What storage answers after all its own attempts is for a person to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot use {folder}: {error}") from error


def open_file(path: str | os.PathLike) -> BinaryIO:
    """A file to read, by local path or URL. Raises ``OSError`` where there is none."""
    path = os.fspath(path)
    if "://" not in path:
        return open(path, "rb")
    folder, _, name = path.rpartition("/")
    parent = Folder(folder)
    return io.BufferedReader(parent.filesystem.open_input_stream(parent.path(name)))


def _open_s3(uri: str) -> tuple[pafs.S3FileSystem, str]:
    path = uri.removeprefix("s3://").strip("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint is None and region is None:
        region = pafs.resolve_s3_region(path.partition("/")[0])
    filesystem = pafs.S3FileSystem(
        region=region or "us-east-1",  # other stores ignore it, and the signature needs one
        endpoint_override=endpoint,
        allow_delayed_open=True,  # a file below the size of a part is one request instead of three
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )
    return filesystem, path


def _upload(filesystem: pafs.FileSystem, path: str, content: bytes | pa.Buffer) -> None:
    """Write an object, in a thread that Ctrl-C does not reach.

    pyarrow cannot abandon an upload: closing a stream, or forgetting it, completes the object with
    whatever was written. So nothing may go wrong here but the store itself, whose errors do end an
    upload without an object.
    """
    whole = pa.py_buffer(content)
    with filesystem.open_output_stream(path) as stream:
        stream.write(whole)
