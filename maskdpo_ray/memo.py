"""Asynchronous work under a name, done once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

T = TypeVar("T")


class Memo:
    """Work under a name, done once for all who ask, at once or later.

    Work that raises fails for those who wait for it and is done again for the next one. Of what is
    done, the ``most`` that were used last are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: OrderedDict[Hashable, asyncio.Task] = OrderedDict()

    async def __call__(self, name: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        task = self._tasks.get(name)
        if task is None or _failed(task):
            task = self._tasks[name] = asyncio.ensure_future(work())
        self._tasks.move_to_end(name)
        if len(self._tasks) > self._most:
            self._tasks.popitem(last=False)
        # Others may wait for it: who is cancelled must not take it along.
        return await asyncio.shield(task)


def _failed(task: asyncio.Task) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
