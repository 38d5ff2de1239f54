"""Memory is set aside before a job starts, in the order of asking."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.executors.memory import Memory
from privacy.errors import LimitError


class Desk:
    """Jobs that take memory, and say when they have it."""

    def __init__(self, total: int) -> None:
        self.memory = Memory(total)
        self.has: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}
        self.ended: dict[str, asyncio.Event] = {}

    async def job(self, name: str, needed: int) -> None:
        async with self.memory.take(needed, self.ended[name]):
            if not self.ended[name].is_set():
                self.has.append(name)
                await self.leave[name].wait()

    def start(self, name: str, needed: int) -> "asyncio.Task[None]":
        self.leave[name], self.ended[name] = asyncio.Event(), asyncio.Event()
        return asyncio.create_task(self.job(name, needed))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_jobs_run_side_by_side_as_memory_allows():
    async def play() -> None:
        desk = Desk(100)
        tasks = [desk.start(n, 40) for n in "abc"]
        await settle()
        assert desk.has == ["a", "b"]
        desk.leave["b"].set()
        await settle()
        assert desk.has == ["a", "b", "c"]
        for event in desk.leave.values():
            event.set()
        await asyncio.gather(*tasks)

    asyncio.run(play())


def test_a_large_job_is_not_passed_over():
    async def play() -> None:
        desk = Desk(100)
        tasks = [desk.start("a", 60), desk.start("large", 100), desk.start("b", 10)]
        await settle()
        assert desk.has == ["a"]  # there is room for b, but it came later
        desk.leave["a"].set()
        await settle()
        assert desk.has == ["a", "large"]
        desk.leave["large"].set()
        await settle()
        assert desk.has == ["a", "large", "b"]
        desk.leave["b"].set()
        await asyncio.gather(*tasks)

    asyncio.run(play())


def test_who_is_cancelled_gives_up_its_turn():
    async def play() -> None:
        desk = Desk(100)
        tasks = [desk.start("a", 60), desk.start("large", 100), desk.start("b", 10)]
        await settle()
        desk.ended["large"].set()
        await settle()
        assert desk.has == ["a", "b"]
        tasks.append(desk.start("c", 30))
        await settle()
        assert desk.has == ["a", "b", "c"]
        for event in desk.leave.values():
            event.set()
        await asyncio.gather(*tasks)
        async with AsyncExitStack() as stack:  # all was given back
            await stack.enter_async_context(desk.memory.take(100, asyncio.Event()))

    asyncio.run(play())


def test_a_job_that_can_never_fit_is_refused_with_both_figures():
    async def play() -> None:
        async with Memory(100 << 20).take(300 << 20, asyncio.Event()):
            pytest.fail("it was let in")

    with pytest.raises(LimitError) as caught:
        asyncio.run(play())
    assert caught.value.code == "circuit-too-large"
    assert "300 MiB" in caught.value.message
    assert "100 MiB" in caught.value.message
