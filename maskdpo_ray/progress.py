"""One line that tells how far a run of stages is: counts, rate and time left."""

import sys
import threading
import time
from collections.abc import Callable

from maskdpo_ray.rundir import StageStore


class Progress:
    """Watches the stores of running stages and prints a line whenever they moved.

    On a terminal the line renews itself; in a log file a new line comes at most every
    ``log_every`` seconds. When nothing moved for ``patience`` seconds it says so, with what
    ``lacking`` answers: a stream whose resources are gone waits, and would wait without a word.

    Attributes:
        seconds: stage name -> seconds from the start until its newest row was seen.
    """

    def __init__(
        self,
        stores: list[StageStore],
        expected: list[int],
        lacking: Callable[[], str | None],
        log_every: float = 15.0,
        patience: float = 120.0,
    ) -> None:
        self._stores = stores
        self._expected = expected
        self._counts: list[dict[str, int]] = [{} for _ in stores]
        self._on_terminal = sys.stderr.isatty()
        self._lacking = lacking
        self._log_every = log_every
        self._patience = patience
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seconds = {store.name: 0.0 for store in stores}

    def __enter__(self) -> "Progress":
        self._begun = self._printed = self._moved = time.monotonic()
        self._before = [self._count(n) for n in range(len(self._stores))]
        self._last = list(self._before)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._print(end="\n")

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            moved = self._look()
            due = time.monotonic() - self._printed >= self._log_every
            if self._on_terminal or (moved and due):
                self._print(end="" if self._on_terminal else "\n")
            if time.monotonic() - self._moved >= self._patience:
                self._moved = time.monotonic()
                reason = self._lacking() or "actors are starting or busy"
                say(f"no row finished for {clock(self._patience)}: {reason}")

    def _look(self) -> bool:
        now = [self._count(n) for n in range(len(self._stores))]
        for n, store in enumerate(self._stores):
            if now[n] != self._last[n]:
                self.seconds[store.name] = time.monotonic() - self._begun
        moved, self._last = now != self._last, now
        if moved:
            self._moved = time.monotonic()
        return moved

    def _count(self, n: int) -> int:
        """Rows finished or rejected. Parts never change, so each is opened once."""
        store, known = self._stores[n], self._counts[n]
        for kind in ("part", "rejected"):
            for part in store.parts(kind):
                if part not in known:
                    with store.folder.parquet(part) as file:
                        known[part] = file.metadata.num_rows
        return sum(known.values())

    def _print(self, end: str) -> None:
        elapsed = time.monotonic() - self._begun
        self._printed = time.monotonic()
        shares = [
            f"{store.name} {done}/{most}"
            for store, done, most in zip(self._stores, self._last, self._expected, strict=True)
        ]
        fresh = self._last[-1] - self._before[-1]
        line = "  ".join(shares) + f"  {clock(elapsed)}"
        if fresh and elapsed:
            left = max(self._expected[-1] - self._last[-1], 0) * elapsed / fresh
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
