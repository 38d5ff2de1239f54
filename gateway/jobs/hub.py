"""Who waits for what: news of jobs, in memory, on the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from gateway.store.jobs import Job
from privacy.encoding import Json

News = Job | Json
"""A job whose status changed, or a progress report."""
Inbox = asyncio.Queue[News]


class Hub:
    """Tells waiting requests that a job changed, and keeps its latest progress."""

    def __init__(self, *, progress_every_s: float = 0.1) -> None:
        """Pass on at most one progress report in `progress_every_s` for each job."""
        self._loop = asyncio.get_running_loop()
        self._every_s = progress_every_s
        self._inboxes: dict[str, set[Inbox]] = {}
        self._progress: dict[str, Json] = {}
        self._told_at: dict[str, float] = {}

    def progress(self, job_id: str) -> Json | None:
        """Return the latest progress report of a job that runs."""
        return self._progress.get(job_id)

    def report(self, job_id: str, progress: Json) -> None:
        """Take a progress report, from any thread."""
        self._loop.call_soon_threadsafe(self._report, job_id, progress)

    def changed(self, job: Job) -> None:
        """Take a job that changed or begins an attempt, from any thread."""
        self._loop.call_soon_threadsafe(self._changed, job)

    def reports(self, job_ids: set[str]) -> dict[str, Json]:
        """Return the latest progress reports of those of these jobs that gave one."""
        return {i: self._progress[i] for i in job_ids if self._progress.get(i)}

    def followed(self) -> set[str]:
        """Return the jobs whose news somebody waits for."""
        return set(self._inboxes)

    def tell(self, job_id: str, word: News) -> None:
        """Pass on a word about a job that runs elsewhere, on the event loop."""
        for inbox in self._inboxes.get(job_id, ()):
            inbox.put_nowait(word)

    @contextmanager
    def follow(self, job_id: str) -> Iterator[Inbox]:
        """Give an inbox for the news of a job."""
        inbox: Inbox = asyncio.Queue()
        self._inboxes.setdefault(job_id, set()).add(inbox)
        try:
            yield inbox
        finally:
            followers = self._inboxes[job_id]
            followers.discard(inbox)
            if not followers:
                del self._inboxes[job_id]

    def _changed(self, job: Job) -> None:
        self._told_at.pop(job.id, None)
        if job.finished:
            self._progress.pop(job.id, None)
        else:
            self._progress[job.id] = {}
        for inbox in self._inboxes.get(job.id, ()):
            inbox.put_nowait(job)

    def _report(self, job_id: str, progress: Json) -> None:
        if job_id not in self._progress:
            return  # a late word about a job that has ended
        self._progress[job_id] = progress
        now = time.monotonic()
        complete = progress.get("done") == progress.get("total")
        if not complete and now - self._told_at.get(job_id, 0.0) < self._every_s:
            return
        self._told_at[job_id] = now
        for inbox in self._inboxes.get(job_id, ()):
            if inbox.empty():  # a slow reader skips progress, never a status
                inbox.put_nowait(progress)


async def news(inbox: Inbox, *, for_s: float | None = None) -> AsyncIterator[News]:
    """Yield what arrives in an inbox, for `for_s` seconds or without end."""
    try:
        async with asyncio.timeout(for_s):
            while True:
                yield await inbox.get()
    except TimeoutError:
        return
