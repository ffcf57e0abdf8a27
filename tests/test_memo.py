"""Work under a name, done once for all who ask."""

import asyncio

from maskdpo_ray.errors import UserError
from maskdpo_ray.memo import Memo


class Work:
    """Counts how often it is done, waits for ``go``, and fails the first times."""

    def __init__(self, failures: int = 0) -> None:
        self.done, self.failures, self.go = 0, failures, asyncio.Event()

    async def __call__(self) -> int:
        self.done += 1
        await self.go.wait()
        if self.done <= self.failures:
            raise UserError("gone")
        return self.done


def test_work_in_flight_is_shared_and_failed_work_is_done_again():
    async def ask():
        memo, work = Memo(9), Work(failures=1)
        waiting = [asyncio.ensure_future(memo("a", work)) for _ in range(3)]
        await asyncio.sleep(0)
        work.go.set()
        failed = await asyncio.gather(*waiting, return_exceptions=True)
        return failed, await memo("a", work), await memo("a", work)

    failed, *found = asyncio.run(ask())
    assert [str(error) for error in failed] == ["gone"] * 3
    assert found == [2, 2]


def test_who_gives_up_waiting_takes_nothing_from_the_others():
    async def ask():
        memo, work = Memo(9), Work()
        one, other = (asyncio.ensure_future(memo("a", work)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.sleep(0)
        work.go.set()
        return await other, one.cancelled()

    assert asyncio.run(ask()) == (1, True)


def test_what_was_used_last_is_remembered():
    async def ask():
        memo, work = Memo(2), Work()
        work.go.set()
        return [await memo(name, work) for name in "abacabb"]

    # c drives out b, b then c, and a, asked for in between, stays.
    assert asyncio.run(ask()) == [1, 2, 1, 3, 1, 4, 4]
