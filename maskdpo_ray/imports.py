"""Imports of the packages that take seconds."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Import what stays for the life of the process, the garbage collector kept away from it.

    It would look through a million new objects again and again, as they come and whenever a
    package asks for a collection: a quarter of the CPU time until a vLLM engine answers.
    """
    collects, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:  # else only what others made would be kept for ever
            gc.freeze()
            # What is never collected, some packages report as leaked when the process ends.
            atexit.register(gc.unfreeze)
        if collects:
            gc.enable()
