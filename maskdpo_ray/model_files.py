"""Models and files in an object store, copied to this node's disk, where engines read them."""

import fcntl
import os
import shutil
import uuid
from pathlib import Path

import pyarrow.fs as pafs

from maskdpo_ray.digests import fingerprint
from maskdpo_ray.errors import UserError
from maskdpo_ray.storage import Folder

CHUNK = 64 * 2**20  # bytes


def local_folder(path: str) -> str:
    """The model's folder on this node: a copy where ``path`` is a URL, else ``path`` as it is.

    A copy is named after the address, sizes and times of the files behind it, so that a model
    trained anew is another copy. It appears whole or not at all; of several processes of a node
    that want it at once one makes it and the others wait.

    Raises:
        UserError: there is no model at this URL.
    """
    if "://" not in path:
        return path
    stored = Folder(path)
    files = [i for i in stored.filesystem.get_file_info(_listing(stored)) if i.is_file]
    if "config.json" not in {info.base_name for info in files}:
        raise UserError(f"{path} holds no config.json: it is no Hugging Face model")
    return str(_copy_of(stored, files))


def local_file(path: str) -> str:
    """One file on this node, as ``local_folder`` does it with a model.

    Raises:
        UserError: there is no file at this URL.
    """
    if "://" not in path:
        return os.path.expanduser(path)
    parent, _, name = path.rpartition("/")
    stored = Folder(parent)
    info = stored.filesystem.get_file_info(stored.path(name))
    if not info.is_file:
        raise UserError(f"no file at {path}")
    return str(_copy_of(stored, [info]) / name)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/maskdpo-ray/models``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "maskdpo-ray" / "models"


def _copy_of(stored: Folder, files: list[pafs.FileInfo]) -> Path:
    """The folder on this node with these files of a stored one."""
    key = fingerprint(str(stored), sorted((i.base_name, i.size, i.mtime_ns) for i in files))
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    copy = cache / key
    with open(cache / f"{key}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            _download(stored, files, copy)
    return copy


def _listing(folder: Folder) -> pafs.FileSelector:
    return pafs.FileSelector(folder.path("").rstrip("/"), allow_not_found=True)


def _download(stored: Folder, files: list[pafs.FileInfo], copy: Path) -> None:
    aside = copy.with_name(f".{copy.name}.{uuid.uuid4().hex[:8]}.partial")
    aside.mkdir()
    try:
        for info in files:
            pafs.copy_files(
                info.path,
                str(aside / info.base_name),
                source_filesystem=stored.filesystem,
                destination_filesystem=pafs.LocalFileSystem(),
                chunk_size=CHUNK,
            )
            if (aside / info.base_name).stat().st_size != info.size:
                raise OSError(f"{stored}/{info.base_name} changed while it was copied")
        aside.rename(copy)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
