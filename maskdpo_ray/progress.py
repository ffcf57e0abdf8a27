"""One line that tells how far a run of stages is: counts, rate and time left."""

import sys
import threading
import time
from collections.abc import Callable, Mapping

from maskdpo_ray.rundir import StageStore

KINDS = ("part", "rejected")
LOOKING = 20  # a look lists every part: the pause after it is this many times as long, at least


class Progress:
    """Watches the stores of running stages and prints a line whenever they moved.

    ``done`` says how many rows of this run each store already has, of the ``expected`` ones; a
    store may hold other runs' rows besides.

    On a terminal the line renews itself; in a log file a new line comes at most every
    ``log_every`` seconds. When nothing moved for ``patience`` seconds it says so, with what
    ``lacking`` answers: a stream whose resources are gone waits, and would wait without a word.

    Attributes:
        seconds: stage name -> seconds from the start until its newest row was seen.
    """

    def __init__(
        self,
        done: Mapping[StageStore, int],
        expected: int,
        lacking: Callable[[], str | None],
        look_every: float = 1.0,
        log_every: float = 15.0,
        patience: float = 120.0,
    ) -> None:
        self._done = done
        self._expected = expected
        self._look_every = look_every
        self._on_terminal = sys.stderr.isatty()
        self._lacking = lacking
        self._log_every = log_every
        self._patience = patience
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seconds = {store.name: 0.0 for store in done}

    def __enter__(self) -> "Progress":
        self._begun = self._printed = self._moved = time.monotonic()
        self._last = dict(self._done)
        # What lies there already is in ``done`` and counts nothing here.
        self._new = {store: dict.fromkeys(store.parts(*KINDS), 0) for store in self._done}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._print(end="\n")

    def _watch(self) -> None:
        pause = self._look_every
        while not self._stop.wait(pause):
            began = time.monotonic()
            moved = self._look()
            pause = max(self._look_every, LOOKING * (time.monotonic() - began))
            due = time.monotonic() - self._printed >= self._log_every
            if self._on_terminal or (moved and due):
                self._print(end="" if self._on_terminal else "\n")
            if time.monotonic() - self._moved >= self._patience:
                self._moved = time.monotonic()
                reason = self._lacking() or "actors are starting or busy"
                say(f"no row finished for {clock(self._patience)}: {reason}")

    def _look(self) -> bool:
        try:
            now = {store: self._count(store) for store in self._done}
        except OSError:  # storage that does not answer now is asked again at the next look
            return False
        for store in self._done:
            if now[store] != self._last[store]:
                self.seconds[store.name] = time.monotonic() - self._begun
        moved, self._last = now != self._last, now
        if moved:
            self._moved = time.monotonic()
        return moved

    def _count(self, store: StageStore) -> int:
        """Rows that came in and are done. Parts never change, so each new one is opened once."""
        new = self._new[store]
        for part in store.parts(*KINDS):
            if part not in new:
                new[part] = store.count(part)
        return self._done[store] + sum(new.values())

    def _print(self, end: str) -> None:
        elapsed = time.monotonic() - self._begun
        self._printed = time.monotonic()
        shares = [f"{store.name} {rows}/{self._expected}" for store, rows in self._last.items()]
        *_, last = self._done
        fresh = self._last[last] - self._done[last]
        line = "  ".join(shares) + f"  {clock(elapsed)}"
        if fresh and elapsed:
            left = max(self._expected - self._last[last], 0) * elapsed / fresh
            line += f"  {fresh / elapsed:.1f} rows/s" + (f", {clock(left)} left" if left else "")
        print(
            ("\r\033[K" if self._on_terminal else "") + line, end=end, file=sys.stderr, flush=True
        )


def clock(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def say(message: str) -> None:
    """One line for the person who watches; results go to stdout, this does not."""
    print(message, file=sys.stderr, flush=True)
