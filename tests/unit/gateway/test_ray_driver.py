"""What the process that talks to Ray remembers, without a cluster."""

import asyncio
from typing import Any

import pytest

from privacy.encoding import Json

pytestmark = pytest.mark.slow  # Ray takes a second to load


class _Actor:
    """One whose first status call fails."""

    def __init__(self, error: Exception) -> None:
        self.told: list[list[str]] = []
        self._errors = [error]
        self.status = self  # `actor.status.remote(…)`

    async def remote(self, fetched: list[str]) -> Json:
        self.told.append(fetched)
        if self._errors:
            raise self._errors.pop()
        return {"jobs": []}


def test_a_node_that_did_not_hear_what_was_fetched_is_told_again():
    from ray.exceptions import RayError

    from gateway.executors.ray.driver import _ask, _Node

    async def ask(node: _Node, actor: Any) -> None:
        node._actor = actor
        await _ask(node, "x:y")

    node, actor = _Node({"id": "abc", "modes": {}}), _Actor(RayError())
    node.fetched = ["job_1"]
    asyncio.run(ask(node, actor))
    assert node.status is None
    node.fetched.append("job_2")
    asyncio.run(ask(node, actor))
    assert node.status == {"jobs": []}
    asyncio.run(ask(node, actor))
    assert actor.told == [["job_1"], ["job_1", "job_2"], []]
