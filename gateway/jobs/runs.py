"""The runs of this process: one a job, and a durable workflow for each that lasts.

An accepted job is safe once its row is written, for whatever row has neither ended nor
a workflow is started again at the next start (`Workflows.recover`). So a run begins at
once, and its workflow is written down only if the run takes longer than writing it
down is worth. From then on the workflow waits for the run, or repeats it after a crash.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from gateway.logs import error_id_of

LASTING_S = 0.1

_Task = asyncio.Task[None]
Complete = Callable[[str], Coroutine[Any, Any, None]]
"""Runs a job to its end."""


class Runs:
    """Runs under way on the event loop."""

    def __init__(self, start_workflow: Callable[[str], Awaitable[None]]) -> None:
        """Have none; `start_workflow` begins a durable workflow, which will `join`."""
        self._start_workflow = start_workflow
        self._runs: dict[str, _Task] = {}
        self._records: set[_Task] = set()

    def begin(self, job_id: str, complete: Complete) -> None:
        """Start the run of an accepted job, unless it is under way."""
        if job_id in self._runs:
            return
        run = self._run(job_id, complete)
        record = asyncio.create_task(self._record(job_id, run))
        self._records.add(record)
        record.add_done_callback(self._records.discard)
        record.add_done_callback(lambda task: _note(task, job_id))

    async def join(self, job_id: str, complete: Complete) -> None:
        """Wait for the end of a job's run, which begins now if none is under way."""
        await asyncio.shield(self._runs.get(job_id) or self._run(job_id, complete))

    def close(self) -> None:
        """Begin no more workflows."""
        for record in self._records:
            record.cancel()

    def _run(self, job_id: str, complete: Complete) -> _Task:
        run = self._runs[job_id] = asyncio.create_task(complete(job_id))
        run.add_done_callback(lambda _: self._runs.pop(job_id))
        run.add_done_callback(lambda task: _note(task, job_id))
        return run

    async def _record(self, job_id: str, run: _Task) -> None:
        done, _ = await asyncio.wait({run}, timeout=LASTING_S)
        if not done:
            await self._start_workflow(job_id)


def _note(task: _Task, job_id: str) -> None:
    """Log a defect that nobody waits for."""
    if not task.cancelled() and (exc := task.exception()):
        error_id_of(exc, job=job_id)
