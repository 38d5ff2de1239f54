"""The actor of a cluster's node, without Ray around it."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.executors.ray.actor import LINGER_S, NodeActor
from privacy.bundle import MANIFEST
from privacy.encoding import sha256_hex
from privacy.errors import NotFoundError
from tests.support.hand_made_bundle import write_bundle

Scenario = Callable[["_Lab"], Awaitable[None]]


class _Lab:
    """An actor, and jobs for it."""

    def __init__(self, folder: Path) -> None:
        self.bundle = write_bundle(folder / "models")
        self.files = {self.bundle.sha256: self.bundle.root / MANIFEST} | {
            entry.sha256: self.bundle.root / name
            for name, entry in self.bundle.manifest.files.items()
        }
        self.actor = NodeActor("far", ["zkml"], 0, "tests.support.fake_worker:handler")

    def request(self, order: dict[str, Any], name: str = "job_1") -> dict[str, Any]:
        content = json.dumps(order).encode()
        return {
            "job_id": name,
            "mode": "zkml",
            "model_sha256": self.bundle.sha256,
            "publisher": "",
            "signature": "",
            "input_sha256": sha256_hex(content),
            "input": np.frombuffer(content, np.uint8),
            "keys_sha256": "",
        }

    async def run(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Send what is missing until the job runs, and return how it went."""
        while "missing" in (said := await self.actor.run(request)):
            for sha256 in said["missing"]:
                piece = np.frombuffer(self.files[sha256].read_bytes(), np.uint8)
                send_id = secrets.token_hex(32)
                await self.actor.write(sha256, send_id, 0, piece, last=True)
        words = said["words"]
        while not {"done", "error"} & set(words[-1]):
            said = await self.actor.follow(request["job_id"], said["seen"])
            words += said["words"]
        return words


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    monkeypatch.setenv("PRIVACY_GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PRIVACY_GATEWAY_ZKML_WORKERS", "2")

    def run(scenario: Scenario) -> None:
        async def go() -> None:
            lab = _Lab(tmp_path)
            try:
                await scenario(lab)
            finally:
                await lab.actor._node.close()

        asyncio.run(go())

    return run


def test_a_job_runs_once_its_files_are_here_and_is_told_to_all_who_ask(
    play: Callable[[Scenario], None],
):
    async def scenario(lab: _Lab) -> None:
        order = {"do": "progress", "total": 2, "seconds": 0.2}
        first = asyncio.create_task(lab.run(lab.request(order)))
        while not lab.actor._jobs:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        second = await lab.run(lab.request(order))
        words = await first
        assert words[0] == {"started": True}
        assert words[-2]["progress"]["done"] == 2
        done = words[-1]["done"]
        assert second[-1]["done"] is done
        assert [w for w in second if "started" in w] == [{"started": True}]
        assert done["kind"] == "proof"
        output = json.loads(bytes(done["inline"]["output"]))
        assert output["echo"] == order
        piece = await lab.actor.read("job_1", "output", 5)
        assert bytes(piece) == bytes(done["inline"]["output"])[5:]
        await lab.actor.status(["job_1", "unknown"])
        await lab.actor._remove_old(time.monotonic() + LINGER_S - 1)
        assert (await lab.run(lab.request(order)))[-1]["done"] is done  # not yet
        await lab.actor._remove_old(time.monotonic() + LINGER_S + 1)
        assert await lab.actor.follow("job_1", 0) == {}
        with pytest.raises(NotFoundError):
            await lab.actor.read("job_1", "output", 0)

    play(scenario)


def test_a_cancelled_job_and_a_refused_one_say_why(play: Callable[[Scenario], None]):
    async def scenario(lab: _Lab) -> None:
        sleep = {"do": "sleep", "seconds": 60}
        asleep = asyncio.create_task(lab.run(lab.request(sleep)))
        (refused,) = (await lab.run(lab.request({"do": "refuse"}, "job_2")))[-1:]
        assert refused["error"]["family"] == "FormatError"
        assert refused["error"]["code"] == "fake-refusal"
        began = time.monotonic()
        await lab.actor.cancel("job_1")
        assert (await asleep)[-1]["error"]["code"] == "cancelled"
        assert time.monotonic() - began < 2
        status = await lab.actor.status([])
        assert status["node"]["modes"]["zkml"]["busy"] == 0
        assert lab.bundle.sha256 in status["warm"]["zkml"]
        lab.actor._caretaker.cancel()

    play(scenario)


@pytest.mark.parametrize("name", ["../job", "", "a/b", ".", "x" * 101])
def test_a_jobs_name_is_no_path(play: Callable[[Scenario], None], name: str):
    async def scenario(lab: _Lab) -> None:
        with pytest.raises(Exception, match="no job id"):
            await lab.run(lab.request({"do": "echo"}, name))

    play(scenario)
