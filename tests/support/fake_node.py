"""Nodes that do as they are told, for tests of the scheduler."""

import asyncio
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from gateway.executors.base import Done, NodeLostError, Watch, Work
from gateway.executors.memory import gpus_needed, needed
from privacy.bundle import Bundle
from privacy.encoding import Json
from privacy.errors import JobFailedError, LimitError, PrivacyError, UnavailableError
from privacy.modes import Mode


class FakeNode:
    """Runs each job until the test says how it ends."""

    def __init__(
        self,
        name: str,
        *,
        modes: Collection[Mode] = tuple(Mode),
        places: int = 1,
        memory_bytes: int = 1 << 40,
        gpus: int = 0,
    ) -> None:
        self.name = name
        self.gpus = gpus
        self.is_foreign = False
        self.ran: list[str] = []
        self.warm: dict[str, int] = {}
        self.holds: set[str] = set()
        self._modes = modes
        self._places = places
        self._memory_bytes = memory_bytes
        self._ends: dict[str, asyncio.Future[Done]] = {}
        self._busy: Counter[Mode] = Counter()

    async def run(self, work: Work, watch: Watch) -> Done:
        self.ran.append(work.job_id)
        end = self._ends[work.job_id] = asyncio.get_running_loop().create_future()
        self._busy[work.mode] += 1
        try:
            return await end
        finally:
            del self._ends[work.job_id]
            self._busy[work.mode] -= 1

    def finish(self, job_id: str) -> None:
        self._ends[job_id].set_result(Done(Path("output"), None, ""))

    def fail(self, job_id: str, why: PrivacyError) -> None:
        self._ends[job_id].set_exception(why)

    def die(self) -> None:
        for end in self._ends.values():
            end.set_exception(NodeLostError(f"node {self.name} does not answer"))

    def refusal(self, mode: Mode, bundle: Bundle) -> PrivacyError | None:
        if mode not in self._modes:
            return UnavailableError(f"node {self.name} does not serve mode {mode}")
        if gpus_needed(mode, bundle) > self.gpus:
            return LimitError(f"node {self.name} has too few GPUs", code="gpu-needed")
        if needed(mode, bundle) > self._memory_bytes:
            return LimitError("too little memory", code="circuit-too-large")
        return None

    def places(self, mode: Mode) -> int:
        return self._places

    def has(self, job_id: str) -> bool:
        return job_id in self.holds

    def warmth(self, mode: Mode, model_sha256: str, keys_sha256: str = "") -> int:
        return self.warm.get(keys_sha256 or model_sha256, 0)

    async def evidence(self, mode: Mode, bundle: Bundle, nonce: bytes) -> bytes:
        return self.name.encode()

    def cancel(self, job_id: str) -> None:
        if end := self._ends.get(job_id):
            end.set_exception(JobFailedError("cancelled", code="cancelled"))

    def busy(self) -> dict[Mode, int]:
        return dict(self._busy)

    async def close(self) -> None:
        for end in self._ends.values():
            end.cancel()

    def describe(self) -> Json:
        return {"name": self.name}
