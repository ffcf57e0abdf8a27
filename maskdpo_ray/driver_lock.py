"""One driver at a time on a run directory, on local disks, shared file systems and object stores.

The lock is a file, ``driver.lock``, that names its holder and is renewed every few seconds. A
holder that ended without removing it is known at once on its own machine, where its process is
gone, and elsewhere by a lock that is no longer renewed.

What it guarantees: on a file system a lock is made by a hard link, which fails where one exists, so
two drivers that start at once cannot both have it; a mount that knows no links makes it as a new
file, to the same end. A file that says nothing of its holder, cut short or not ours, counts as a
holder's elsewhere, renewed when it was written. An object store knows no such thing: the lock is
written, and counts when it still stands ``SETTLE`` seconds later. A driver that was held up for
longer than that between looking and writing can take a lock that another already counts as its
own; the other sees it when it renews, and stops.
"""

import errno
import os
import platform
import signal
import threading
import time
import uuid
from datetime import datetime
from typing import Any

from maskdpo_ray.errors import UserError
from maskdpo_ray.progress import say
from maskdpo_ray.rundir import LOCK
from maskdpo_ray.storage import Folder

BEAT = 10.0  # seconds between renewals
STALE = 60.0  # a lock that was not renewed for so many seconds has no living holder
# Interrupts the main thread. Not SIGINT: commands in the background of a script ignore it.
LOST = signal.SIGUSR1
KEYS = {
    "host": str, "machine": str, "pid": int, "started": str, "since": int | float, "token": str,
    "renewed": int | float,
}  # fmt: skip
# What a mount without hard links answers: FAT and exFAT, several FUSE and SMB ones.
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}
SETTLE = 2.0  # seconds after which a lock in an object store must still stand


class DriverLock:
    """Held from ``with`` to its end. Losing it interrupts the main thread, and ends in UserError.

    Raises:
        UserError: another driver holds the directory, or took it over meanwhile.
    """

    def __init__(self, folder: Folder, beat: float = BEAT, stale: float = STALE) -> None:
        self._folder = folder
        self._beat, self._stale = beat, stale
        self._ours = _me() | {"token": uuid.uuid4().hex, "renewed": time.time()}
        self._lost: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "DriverLock":
        try:
            holder = self._holder()
            if holder and self._alive(holder):
                raise self._refused(holder)
            self._take(holder)
            holder = self._holder()
        except OSError as error:
            raise UserError(f"run_dir {self._folder} cannot be used: {error}") from None
        if not self._is_ours(holder):
            raise self._refused(holder)
        self._handler = signal.signal(LOST, signal.default_int_handler)
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        signal.signal(LOST, self._handler)
        if self._lost:
            raise UserError(self._lost) from None
        self._give_back()

    def _give_back(self) -> None:
        """Remove the lock, unless it is another's by now: one that took it from a driver that was
        stopped for longer than ``STALE``, and goes on, holds it."""
        if self._is_ours(self._holder()):
            self._folder.remove(LOCK)

    def _is_ours(self, holder: dict[str, Any] | None) -> bool:
        return holder is not None and holder["token"] == self._ours["token"]

    def _holder(self) -> dict[str, Any] | None:
        try:
            return _read(self._folder, LOCK)
        except FileNotFoundError:
            return None

    def _alive(self, holder: dict[str, Any]) -> bool:
        if holder["machine"] == self._ours["machine"]:
            return _started(holder["pid"]) == holder["started"]
        if time.time() - holder["renewed"] < self._stale:
            return True
        # The clocks of two machines may differ: a holder that lives renews it before our eyes.
        time.sleep(1.5 * self._beat)
        return self._holder() != holder

    def _take(self, dead: dict[str, Any] | None) -> None:
        if not self._folder.is_local:
            self._folder.write_json(LOCK, self._ours)
            time.sleep(SETTLE)
            return
        aside = f"{LOCK}.{self._ours['token']}"
        lock, ours = self._folder.path(LOCK), self._folder.path(aside)
        try:
            if dead:
                self._move_away(lock, ours, dead)
            self._folder.write_json(aside, self._ours)
            _link(ours, lock)
        except FileExistsError:
            pass  # another driver was faster; the caller reads whose the lock is
        finally:
            self._folder.remove(aside)

    def _move_away(self, lock: str, aside: str, dead: dict[str, Any]) -> None:
        try:
            os.rename(lock, aside)
        except FileNotFoundError:
            return  # its holder, or another that takes over, removed it
        moved = _read(self._folder, aside.rpartition("/")[2])
        if moved != dead:  # it changed hands since we looked: give it back
            _link(aside, lock)

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(self._beat):
            try:
                looked = time.monotonic()
                holder = self._holder()
                if self._is_ours(holder):
                    if time.monotonic() - looked > self._stale / 2:
                        continue  # stopped in between: it may have been taken since
                    self._folder.write_json(LOCK, self._ours | {"renewed": time.time()})
                    renewed = time.monotonic()
                    continue
                taker = f"{_name(holder)} took it over" if holder else "its lock was removed"
            except OSError as error:
                if time.monotonic() - renewed < self._stale:
                    continue
                taker = f"its lock could not be renewed: {error}"
            self._lost = (
                f"{self._folder} is no longer held by this driver: {taker}; what is finished "
                "stays, and the same command goes on from here once no other driver runs"
            )
            say(f"maskdpo: {self._lost}")
            signal.pthread_kill(threading.main_thread().ident, LOST)
            return

    def _refused(self, holder: dict[str, Any] | None) -> UserError:
        if holder is None:
            return UserError(f"{self._folder}: another driver starts at this moment; try again")
        return UserError(
            f"{self._folder} is in use by {_name(holder)}: wait for it or end it; if that machine "
            f"is gone, try again {self._stale:g} s after its last sign of life "
            f"({_time(holder['renewed'])})"
        )


def _read(folder: Folder, name: str) -> dict[str, Any]:
    """Who holds a lock. Raises ``FileNotFoundError`` where there is none."""
    try:
        holder = folder.read_json(name)
        if isinstance(holder, dict) and all(
            isinstance(holder.get(key), kind) for key, kind in KEYS.items()
        ):
            _time(holder["since"]), _time(holder["renewed"])
            return holder
    except (ValueError, OverflowError, RecursionError):
        pass
    written = folder.filesystem.get_file_info(folder.path(name)).mtime
    if written is None:
        raise FileNotFoundError(name)
    seconds = written.timestamp()
    nobody = dict.fromkeys(KEYS, None) | {"host": "an unknown machine", "pid": "unknown"}
    return nobody | {"since": seconds, "renewed": seconds}


def _link(existing: str, name: str) -> None:
    """Give a file a second name. Raises ``FileExistsError`` where there is one of that name."""
    try:
        os.link(existing, name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(existing, "rb") as source, open(name, "xb") as target:
            target.write(source.read())


def _me() -> dict[str, Any]:
    """Who holds the lock; ``machine`` tells where its process id means anything."""
    host, pid = platform.node(), os.getpid()
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        boot = file.read().strip()
    return {
        "host": host,
        "machine": f"{host} {boot} {os.readlink('/proc/self/ns/pid')}",
        "pid": pid,
        "started": _started(pid),
        "since": time.time(),
    }


def _started(pid: int) -> str | None:
    """When a process of this machine started, so that a number given anew is no old process.

    None where there is no such process any more.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return None if state in "ZX" else fields[18]


def _name(holder: dict[str, Any]) -> str:
    since = _time(holder["since"])
    return f"the driver with process id {holder['pid']} on {holder['host']} (since {since})"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(sep=" ", timespec="seconds")
