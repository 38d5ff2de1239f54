"""The gateway's end of the driver, with a driver that has no Ray."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.executors.base import NodeLostError
from gateway.executors.ray import link as module
from gateway.executors.ray.link import Link
from privacy.errors import FormatError

Scenario = Callable[[Link, list[Any]], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    monkeypatch.setattr(module, "_PROGRAM", "tests.support.fake_ray_driver")
    monkeypatch.setattr(module, "_AGAIN_S", 0.05)
    log = tmp_path / "starts"

    def run(scenario: Scenario, mode: str = "well") -> list[str]:
        async def go() -> None:
            seen: list[Any] = []
            link = Link(
                address=str(log),
                node_ip=mode,
                worker_target="x:y",
                env={"RAY_AUTH_TOKEN_PATH": "/token"},
                nodes=seen.append,
            )
            link.start()
            try:
                await scenario(link, seen)
            finally:
                await link.close()

        asyncio.run(go())
        return log.read_text().split()

    return run


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_calls_are_answered_and_a_driver_that_dies_is_replaced(
    play: Callable[..., list[str]],
):
    async def scenario(link: Link, seen: list[Any]) -> None:
        with pytest.raises(NodeLostError):  # it has not reached the cluster yet
            await link.call("echo", word="early")
        await until(lambda: seen)
        assert seen == [[{"id": "n1", "token": "/token"}]]
        events: list[Any] = []
        answers = await asyncio.gather(
            *(link.call("echo", word=n, event=events.append) for n in range(3))
        )
        assert [answer["said"] for answer in answers] == [0, 1, 2]
        assert events == [{"progress": 1}] * 3
        with pytest.raises(FormatError) as refusal:
            await link.call("refuse")
        assert (refusal.value.code, refusal.value.message) == ("bad", "no")
        with pytest.raises(NodeLostError):
            await link.call("lost")
        hanging = asyncio.create_task(link.call("nothing"))
        await asyncio.sleep(0)
        with pytest.raises(NodeLostError):
            await link.call("die")
        with pytest.raises(NodeLostError):
            await hanging
        await until(lambda: len(seen) == 3)
        assert seen[1] == []  # meanwhile it had no nodes
        with pytest.raises(NodeLostError):
            await link.call("babble")
        await until(lambda: len(seen) == 5)
        assert (await link.call("echo", word="again"))["said"] == "again"

    assert len(set(play(scenario))) == 3


def test_a_cluster_that_cannot_be_reached_is_tried_again(
    play: Callable[..., list[str]],
):
    async def scenario(link: Link, seen: list[Any]) -> None:
        await until(lambda: len(seen) == 2)
        assert seen == [[], []]
        with pytest.raises(NodeLostError):
            await link.call("echo", word="x")

    assert len(play(scenario, "unreachable")) >= 2


def test_a_driver_that_says_nothing_is_given_up(
    play: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "REACH_S", 0.5)

    async def scenario(_link: Link, seen: list[Any]) -> None:
        await until(lambda: len(seen) == 2)
        assert seen == [[], []]

    assert len(set(play(scenario, "silent"))) >= 2


def test_closing_ends_calls_without_an_outcome(play: Callable[..., list[str]]):
    calls: list[Any] = []

    async def scenario(link: Link, seen: list[Any]) -> None:
        await until(lambda: seen)
        calls.append(asyncio.create_task(link.call("nothing")))
        await asyncio.sleep(0)
        await link.close()
        await asyncio.sleep(0)
        assert calls[0].cancelled()

    (pid,) = play(scenario)
    assert not Path(f"/proc/{pid}").exists()
