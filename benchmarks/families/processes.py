"""Work on a family in a process of its own, bounded in time and memory."""

import json
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS, BYTES = 240, 10 << 30


class Different(Exception):
    """Something is not what it has to be."""


def brief(error: BaseException) -> str:
    """An outcome: what kind of failure, and its first line."""
    from maskdpo_ray.errors import UserError, first_line

    text = first_line(error)
    if isinstance(error, UserError):
        return f"refused: {text}"
    if isinstance(error, Different):
        return f"different: {text}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return f"error: {type(error).__name__}: {text[:300]} ({place})"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="architectures-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_process(
    work: Callable[..., dict], *arguments: Any, seconds: int = SECONDS, memory: int | None = BYTES
) -> dict[str, Any]:
    """``work`` in a fork of this process, which has the packages loaded; what it returns, with an
    ``outcome``."""
    with scratch_folder() as folder:
        out, words = folder / "result", folder / "words"
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                if memory is not None:
                    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
                if not os.environ.get("TRACE"):
                    os.dup2(os.open(words, os.O_CREAT | os.O_WRONLY), 2)
                out.write_text(json.dumps(_made(work, arguments)))
            finally:
                os._exit(0)
        began = time.monotonic()
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            if time.monotonic() - began > seconds:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"outcome": f"error: it took more than {seconds} s"}
            time.sleep(0.05)
        made = json.loads(out.read_text()) if out.exists() else {"outcome": _end(status, words)}
    return made | {"seconds": round(time.monotonic() - began, 1)}


def _made(work: Callable[..., dict], arguments: tuple) -> dict[str, Any]:
    try:
        return {"outcome": "exact", **work(*arguments)}
    except Exception as error:
        if os.environ.get("TRACE"):
            traceback.print_exc()
        return {"outcome": brief(error)}


def _end(status: int, words: Path) -> str:
    """How a process ended that left no result."""
    if os.WIFSIGNALED(status):
        how = signal.Signals(os.WTERMSIG(status)).name
    else:
        how = f"exit status {os.WEXITSTATUS(status)}"
    said = words.read_text(errors="replace") if words.exists() else ""
    lines = [line.strip() for line in said.splitlines() if "rror" in line]
    return f"error: its process ended ({how}){': ' + lines[-1][:300] if lines else ''}"
