"""Who waits for what: news of jobs, in memory, on the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from privacy.encoding import Json

_Inbox = asyncio.Queue[str]


class Hub:
    """Tells waiting requests that a job changed, and keeps its latest progress."""

    def __init__(self, *, progress_every_s: float = 0.1) -> None:
        """Pass on at most one progress report in `progress_every_s` for each job."""
        self._loop = asyncio.get_running_loop()
        self._every_s = progress_every_s
        self._inboxes: dict[str, set[_Inbox]] = {}
        self._progress: dict[str, Json] = {}
        self._told_at: dict[str, float] = {}

    def progress(self, job_id: str) -> Json | None:
        """Return the latest progress report of a job that runs."""
        return self._progress.get(job_id)

    def report(self, job_id: str, progress: Json) -> None:
        """Take a progress report, from any thread."""
        self._loop.call_soon_threadsafe(self._report, job_id, progress)

    def changed(self, job_id: str, *, finished: bool = False) -> None:
        """Tell that a job's status changed; call on the event loop."""
        if finished:
            self._progress.pop(job_id, None)
            self._told_at.pop(job_id, None)
        self._tell(job_id, "status")

    def started(self, job_id: str) -> None:
        """Tell that an attempt begins: earlier progress no longer counts."""
        self._progress[job_id] = {}
        self._tell(job_id, "status")

    @contextmanager
    def follow(self, job_id: str) -> Iterator[_Inbox]:
        """Give an inbox for the words "status" and "progress" about a job."""
        inbox: _Inbox = asyncio.Queue()
        self._inboxes.setdefault(job_id, set()).add(inbox)
        try:
            yield inbox
        finally:
            followers = self._inboxes[job_id]
            followers.discard(inbox)
            if not followers:
                del self._inboxes[job_id]

    def _report(self, job_id: str, progress: Json) -> None:
        if job_id not in self._progress:
            return  # a late word about a job that has ended
        self._progress[job_id] = progress
        now = time.monotonic()
        complete = progress.get("done") == progress.get("total")
        if complete or now - self._told_at.get(job_id, 0.0) >= self._every_s:
            self._told_at[job_id] = now
            self._tell(job_id, "progress")

    def _tell(self, job_id: str, what: str) -> None:
        for inbox in self._inboxes.get(job_id, ()):
            if what == "status" or inbox.empty():  # a slow reader skips progress
                inbox.put_nowait(what)


async def words(inbox: _Inbox, *, until_s: float | None = None) -> AsyncIterator[str]:
    """Yield what arrives in an inbox, until `until_s` seconds have passed."""
    try:
        async with asyncio.timeout(until_s):
            while True:
                yield await inbox.get()
    except TimeoutError:
        return
