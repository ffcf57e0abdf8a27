"""Engine logs in a file, out of the way until they are needed."""

import atexit
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TAIL_LINES = 40
PREFIX = "maskdpo-engine-"


@cache
def log_to_file() -> Path:
    """Send vLLM's log, worker processes included, to a file of this process.

    Call it before vLLM is imported, or the import's own lines go to standard output. The file
    goes when the process ends in good order, unless ``keep`` was called; it stays behind a
    process that died.

    ``VLLM_LOGGING_LEVEL`` is kept to. A logging configuration of the user's own
    (``VLLM_LOGGING_CONFIG_PATH``) wins: the file then stays empty.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    log = folder / "engine.log"
    log.touch()
    atexit.register(_remove, folder)
    users_own = os.environ.get("VLLM_LOGGING_CONFIG_PATH", PREFIX)
    if PREFIX in users_own:  # unset, or inherited from a parent process that runs an engine
        config = folder / "logging.json"
        config.write_text(json.dumps(_logging_config(log)), encoding="utf-8")
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(config)
    return log


def keep() -> None:
    """Leave this process's log behind: somebody is told to look there."""
    atexit.unregister(_remove)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _logging_config(log: Path) -> dict:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "plain": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"}
        },
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": str(log), "formatter": "plain"}
        },
        "loggers": {
            "vllm": {
                "handlers": ["file"],
                "level": os.environ.get("VLLM_LOGGING_LEVEL", "INFO"),
                "propagate": False,
            }
        },
    }


@contextlib.contextmanager
def native_output_to(log: Path | str, descriptor: int = 1) -> Iterator[None]:
    """What libraries print past Python's ``sys.stdout`` (gloo, loaders) goes to ``log`` as well.

    Args:
        descriptor: 1 for standard output, 2 for standard error.
    """
    stream = {1: sys.stdout, 2: sys.stderr}[descriptor]
    stream.flush()
    kept = os.dup(descriptor)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(kept, descriptor)
        os.close(kept)


def tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])
