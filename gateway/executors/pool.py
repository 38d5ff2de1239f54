"""The embedded executor: warm worker processes of one mode, one job at a time each.

Native code does not listen, so cancelling and time limits kill the worker; the next
job starts a fresh one. A worker that dies on its own is tried again, within limits: an
input that crashes the engine twice is at fault itself.
"""

import asyncio
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gateway.executors.base import Done, Watch, Work
from gateway.executors.memory import Memory, needed
from gateway.executors.places import Places
from privacy.child import Child, ChildDied
from privacy.encoding import Json
from privacy.errors import BackendError, JobFailedError, LimitError
from privacy.modes import Mode

MAX_DEATHS = 3
MAX_CRASHES = 2


@dataclass(slots=True)
class _Slot:
    """A place for a worker.

    Attributes:
        warm: Digests of the models and keys that its worker has loaded, as it said
            after its last job, and those of the job it is at.
    """

    child: Child | None = None
    warm: frozenset[str] = frozenset()

    def discard(self) -> None:
        """End the worker, if there is one."""
        if self.child:
            self.child.close()
        self.child = None
        self.warm = frozenset()


@dataclass(slots=True)
class _Ticket:
    """A job here, waiting or running; `ended` says why we stopped it."""

    child: Child | None = None
    ended: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, why: str) -> None:
        self.ended = self.ended or why
        self.over.set()
        if self.child:
            self.child.kill()


class Pool:
    """Worker processes of one mode."""

    def __init__(
        self,
        mode: Mode,
        *,
        target: str,
        size: int,
        memory_bytes: int,
        time_limit_s: float,
        env: Mapping[str, str] | None = None,
        memory: Memory | None = None,
    ) -> None:
        """Describe the pool; workers start with the first jobs.

        Args:
            mode: The mode it serves.
            target: The handler of the workers.
            size: How many workers.
            memory_bytes: Address-space limit of each.
            time_limit_s: For one attempt, loading the engine included.
            env: Environment variables for the workers.
            memory: What jobs may take together, by what their models state.
        """
        self._mode = mode
        self._target = target
        self._memory_bytes = memory_bytes
        self._time_limit_s = time_limit_s
        self._env = dict(env or {})
        self._slots = [_Slot() for _ in range(size)]
        self._idle = list(self._slots)
        self._places = Places(size)
        self._memory = memory or Memory(sys.maxsize)
        self._tickets: dict[str, _Ticket] = {}
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=f"{mode}-worker")
        self._closing = False

    async def run(self, work: Work, watch: Watch) -> Done:
        """Return the files of one job; see `Executor`."""
        ticket = self._tickets[work.job_id] = _Ticket()
        try:
            async with (
                self._places.take(ticket.over),
                self._memory.take(needed(work.mode, work.bundle), ticket.over),
            ):
                self._stop_if_ended(ticket)
                slot = self._take(work)
                try:
                    return await self._try(slot, ticket, work, watch)
                finally:
                    self._idle.append(slot)
        finally:
            del self._tickets[work.job_id]
            ticket.left.set()

    def cancel(self, job_id: str) -> None:
        """Stop a job if it waits or runs here."""
        if ticket := self._tickets.get(job_id):
            ticket.end("cancelled")

    def busy(self) -> dict[Mode, int]:
        """Return how many workers are at work."""
        return {self._mode: sum(t.child is not None for t in self._tickets.values())}

    def warm(self) -> set[str]:
        """Return the digests of the models and keys that workers have."""
        return set[str]().union(*(slot.warm for slot in self._slots))

    def has_warm(self, sha256: str) -> bool:
        """Whether a worker has a model or keys."""
        return any(sha256 in slot.warm for slot in self._slots)

    async def close(self) -> None:
        """Kill every worker; jobs here end with `asyncio.CancelledError`."""
        self._closing = True
        tickets = list(self._tickets.values())
        for ticket in tickets:
            ticket.end("closing")
        await asyncio.gather(*(ticket.left.wait() for ticket in tickets))
        for slot in self._slots:
            slot.discard()
        self._threads.shutdown(wait=True)

    def _take(self, work: Work) -> _Slot:
        """Return the idle place whose worker can begin at once, or begins soonest.

        Nobody waits for a busy worker that has the keys: unpacking them elsewhere takes
        seconds at most, another's job may take minutes.
        """
        model, keys = work.bundle.sha256, work.keys.name if work.keys else ""
        best = max(
            self._idle,
            key=lambda s: (
                keys in s.warm,
                model in s.warm,
                s.child is not None,
                -len(s.warm),  # of workers that have neither, the emptiest
            ),
        )
        self._idle.remove(best)
        return best

    async def _try(
        self, slot: _Slot, ticket: _Ticket, work: Work, watch: Watch
    ) -> Done:
        deaths = crashes = 0
        while True:
            self._stop_if_ended(ticket)
            try:
                return await self._attempt(slot, ticket, work, watch)
            except ChildDied as exc:
                slot.discard()
                self._stop_if_ended(ticket)
                deaths, crashes = deaths + 1, crashes + exc.by_itself
                _give_up(deaths, crashes, exc)

    async def _attempt(
        self, slot: _Slot, ticket: _Ticket, work: Work, watch: Watch
    ) -> Done:
        loop = asyncio.get_running_loop()
        if slot.child is None or not slot.child.alive:
            slot.discard()
            slot.child = await loop.run_in_executor(self._threads, self._start)
        self._stop_if_ended(ticket)
        child = ticket.child = slot.child
        has = slot.warm | {work.bundle.sha256}  # unless its answer says otherwise
        slot.warm = has | ({work.keys.name} if work.keys else set())
        output, evidence = work.folder / "output", work.folder / "evidence"
        request = {
            "mode": work.mode,
            "bundle": str(work.bundle.root),
            "model_sha256": work.bundle.sha256,
            "publisher": work.bundle.publisher,
            "input": str(work.input),
            "keys": str(work.keys) if work.keys else None,
            "rows": str(work.folder / "rows"),
            "output": str(output),
            "evidence": str(evidence),
        }

        def call() -> Json:
            watch.started()
            return child.call(request, progress=watch.progress)

        answer = loop.run_in_executor(self._threads, call)
        try:
            await asyncio.wait({answer}, timeout=self._time_limit_s)
            if not answer.done():
                ticket.end("time-limit")
            ended = await answer
            has = frozenset(ended.get("warm", ()))
        except asyncio.CancelledError:
            child.kill()
            raise
        finally:
            ticket.child, slot.warm = None, has
        kind = str(ended["evidence_kind"])
        peak = int(ended.get("memory_bytes", 0))
        return Done(output, evidence if kind else None, kind, memory_bytes=peak)

    def _start(self) -> Child:
        return Child(self._target, memory_bytes=self._memory_bytes, env=self._env)

    def _stop_if_ended(self, ticket: _Ticket) -> None:
        if self._closing or ticket.ended == "closing":
            raise asyncio.CancelledError
        if ticket.ended == "cancelled":
            raise JobFailedError("the job was cancelled", code="cancelled")
        if ticket.ended:
            msg = (
                f"the job took longer than {self._time_limit_s:g} s and was stopped: "
                "send fewer rows, or ask the operator to raise the limit"
            )
            raise LimitError(msg, code="time-limit")


def _give_up(deaths: int, crashes: int, exc: ChildDied) -> None:
    if crashes >= MAX_CRASHES:
        msg = f"the engine crashed {crashes} times on this input: check how it was made"
        raise BackendError(msg, code="input-crashes-engine") from exc
    if deaths >= MAX_DEATHS:
        msg = f"{deaths} worker processes were killed at this job: try again later"
        raise BackendError(msg, code="worker-died") from exc
