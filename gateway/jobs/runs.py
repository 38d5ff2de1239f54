"""The runs of this process: one a job.

An accepted job is safe once its row is written: whatever row has not ended is run again
at the next start, or by another gateway. So a run begins at once, and nothing else is
written down before it ends.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

from gateway.logs import error_id_of

_LAST_WRITES_S = 2.0

_P = ParamSpec("_P")
_T = TypeVar("_T")

Complete = Callable[[str], Coroutine[Any, Any, None]]
"""Runs a job to its end."""


class Runs:
    """Runs under way on the event loop, and the threads that read and write for them.

    Two threads are enough where blobs lie on this machine: six wait for one another, at
    the interpreter's lock, and end a fifth fewer jobs a second.
    """

    def __init__(self, *, threads: int) -> None:
        """Have none."""
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="jobs")

    async def in_thread(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Return what a function gives that blocks, called with the same context."""
        call = partial(copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def begin(self, job_id: str, complete: Complete) -> None:
        """Start the run of an accepted job, unless it is under way."""
        if job_id in self._runs:
            return
        run = self._runs[job_id] = asyncio.create_task(complete(job_id))
        run.add_done_callback(lambda _: self._runs.pop(job_id))
        run.add_done_callback(lambda task: _note(task, job_id))

    def under_way(self) -> set[str]:
        """Return the jobs whose runs are under way."""
        return set(self._runs)

    async def wait(self, for_s: float) -> int:
        """Return how many runs are under way, at the latest after `for_s`."""
        if self._runs:
            await asyncio.wait(list(self._runs.values()), timeout=for_s)
        return len(self._runs)

    def abandon(self, job_id: str) -> None:
        """End a run without an outcome: the job is no longer ours to run."""
        if run := self._runs.get(job_id):
            run.cancel()

    async def close(self) -> None:
        """End what is left once no node runs anything; a last write may take a while.

        What waits for a database that is away goes on in another life.
        """
        if self._runs:
            await asyncio.wait(self._runs.values(), timeout=_LAST_WRITES_S)
        for run in self._runs.values():
            run.cancel()
        self._threads.shutdown(wait=False)


def _note(task: asyncio.Task[None], job_id: str) -> None:
    """Log a defect that nobody waits for."""
    if not task.cancelled() and (exc := task.exception()):
        error_id_of(exc, job=job_id)
