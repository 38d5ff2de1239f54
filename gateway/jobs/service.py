"""Submitting, running, cancelling and waiting for jobs.

A job's life:

1. `submit` has the request checked and its row written (`intake`), and begins a run.
2. The executor computes.
3. The receipt is signed, the blobs that were made are kept, and the terminal state is
   written with them (`ends`).

The row is all that is durable. After a crash runs begin again, here or at another
gateway: a run is a pure function of its inputs, and the terminal state is written once,
by whoever comes first (a run of the gateway that the row names, or `cancel`). A run
that cannot write, since the database is away, the disk full or the receipt key rotated
elsewhere, waits and tries again.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from gateway.executors.base import Done, Watch, Work
from gateway.executors.scheduler import Scheduler
from gateway.jobs.ends import Ended, Ends, defect, failure, is_gone, succeeded
from gateway.jobs.hub import Hub, Inbox, news
from gateway.jobs.intake import Intake, JobRequest
from gateway.jobs.membership import Membership
from gateway.jobs.meter import RunMeter
from gateway.jobs.runs import Runs
from gateway.jobs.view import job_view
from gateway.metrics import job_ended
from gateway.peers.peers import Peers
from gateway.quality.service import SECOND_RUN_OF, Quality
from gateway.registry import ModelRegistry
from gateway.store.away import StoreAwayError, full_disk
from gateway.store.blobs import BlobLostError, BlobStore
from gateway.store.jobs import Job, Jobs, Outcome
from gateway.store.measures import Measures
from gateway.traces import JobSpans, add_facts, span
from privacy.encoding import Json
from privacy.errors import (
    BackendError,
    ConflictError,
    JobFailedError,
    PrivacyError,
    UnavailableError,
)
from privacy.modes import Mode

_log = structlog.get_logger()
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_T = TypeVar("_T")
_MAX_ATTEMPTS = 10  # over all lives of the gateway; a pool's own limits are tighter


@dataclass(slots=True)
class _Course:
    """A run under way.

    Attributes:
        job: It, as this gateway wrote it last, if it did.
        folder: For its files.
        ended: How it ended, once that was looked at: then its files may have gone.
    """

    job: Job | None
    folder: Path
    ended: Ended | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobService:
    """The jobs of one gateway.

    Attributes:
        runs: Those under way.
        membership: Which gateway this is.
        folder: For files of runs under way.
        draining: Set once no new jobs are taken.
    """

    intake: Intake
    ends: Ends
    jobs: Jobs
    blobs: BlobStore
    registry: ModelRegistry
    executor: Scheduler
    hub: Hub
    folder: Path
    runs: Runs
    membership: Membership
    measures: Measures
    quality: Quality
    peers: Peers
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    async def submit(
        self,
        request: JobRequest,
        *,
        tenant: str,
        idempotency_key: str | None,
        wait_s: float = 0.0,
    ) -> Job:
        """Return the accepted job, or the earlier one of the same idempotency key.

        With `wait_s`, return it once it has finished or so many seconds have passed.

        Raises:
            NotFoundError: No such model, mode or uploaded blob.
            ConflictError: The model changed, or the idempotency key was used.
            FormatError: Keys are missing or not wanted, or options are too long.
            LimitError: The queue is full.
            UnavailableError: The gateway is stopping.
        """
        if self.draining.is_set():
            msg = "this gateway is stopping and takes no jobs: ask another, or later"
            raise UnavailableError(msg, code="draining")
        with span("job.accept"):
            job, is_new = await self.runs.in_thread(
                self.intake.accept, request, tenant, idempotency_key
            )
        if not is_new:
            if job.status == "queued" and job.gateway == self.membership.id:
                self.begin(job.id)  # the first request may have failed just here
            return await self.get(job.id, tenant=tenant, wait_s=wait_s)
        with self.hub.follow(job.id) as inbox:
            if job.gateway == self.membership.id:
                self.begin(job.id, accepted=job)
            return await _latest(job, inbox, wait_s)

    def view(self, job: Job) -> Json:
        """Return a job as clients see it."""
        elsewhere = None if job.finished else job.progress
        return job_view(job, self.hub.progress(job.id) or elsewhere)

    async def get(self, job_id: str, *, tenant: str, wait_s: float = 0.0) -> Job:
        """Return a tenant's job, once it has finished or `wait_s` have passed.

        Raises:
            NotFoundError: The tenant has none of that id.
        """
        with self.hub.follow(job_id) as inbox:
            job = await asyncio.to_thread(self.jobs.get, job_id, tenant=tenant)
            return await _latest(job, inbox, wait_s)

    async def cancel(self, job_id: str, *, tenant: str) -> Job:
        """Return a tenant's job after ending it; a finished one stays as it is.

        Raises:
            NotFoundError: The tenant has none of that id.
        """
        await asyncio.to_thread(self.jobs.asked_to_cancel, job_id, tenant=tenant)
        self.executor.cancel(job_id)  # first: while we write, a worker may come free
        cancelled = Ended(Outcome("cancelled"))
        job = await self._end(partial(self.ends.write, job_id, cancelled))
        self.executor.cancel(job_id)  # again: it may have reached the executor since
        return job

    async def drain(self, for_s: float) -> int:
        """Begin no more jobs; return how many still run after `for_s` at most."""
        self.draining.set()
        for job in await asyncio.to_thread(self.jobs.of, self.runs.under_way()):
            if job.status == "queued":
                self.runs.abandon(job.id)
        return await self.runs.wait(for_s)

    def begin(self, job_id: str, *, accepted: Job | None = None) -> None:
        """Begin the run of a job, unless it is under way.

        Args:
            job_id: The job.
            accepted: It, if it was written just now: then it is not read again.
        """
        if self.draining.is_set():
            return
        course = _Course(accepted, self.folder / job_id)
        complete = partial(self._complete, by=self.membership.id, course=course)
        self.runs.begin(job_id, complete)

    def under_way(self) -> set[str]:
        """Return the jobs whose runs are under way."""
        return self.runs.under_way()

    def abandon(self, job_id: str) -> None:
        """End a run of a job that has ended, also on its node."""
        self.executor.cancel(job_id)

    def let_go(self, job_id: str) -> None:
        """End a run of a job that another gateway has taken over.

        A node or peer that both have goes on with it: to cancel it there would end it
        for the other one.
        """
        self.runs.abandon(job_id)

    async def _complete(self, job_id: str, *, by: str, course: _Course) -> None:
        """Run a job, and write its terminal state unless it has one.

        What is left of the run goes then; and not if the gateway stops, for its next
        life goes on with the rows that are there.
        """
        with span("job", {"privacy.job.id": job_id}):
            node, job = await self._completed(job_id, by, course)
            if job:
                add_facts({"privacy.status": job.status, "privacy.node": node})

    async def _completed(
        self, job_id: str, by: str, course: _Course
    ) -> tuple[str, Job | None]:
        """Return who ran a job, and the job as it has ended, None if it is gone.

        If what a run made is lost before its end is written, it runs again.
        """
        run = partial(self._run, job_id, by, course)
        while True:
            end = await _lasting(job_id, run)
            try:
                with span("job.receipt"):
                    return end.node, await self._ended(job_id, end, by, course)
            except BlobLostError as exc:
                _log.warning("job-runs-again", job=job_id, code=exc.code)
                course.job = course.ended = None

    async def _run(self, job_id: str, by: str, course: _Course) -> Done | Ended:
        meter, spans, watch = RunMeter(), JobSpans(), self._watch(job_id, by, course)
        try:
            with full_disk():
                work = await self.runs.in_thread(self._work, job_id, course)
                add_facts(
                    {"privacy.mode": work.mode, "privacy.model": work.bundle.sha256}
                )
                watch = spans.around(meter.around(watch))
                done = await self.executor.run(work, watch)
            self.measures.note(meter.measure(done, work))
        except StoreAwayError:
            raise
        except PrivacyError as exc:
            return Ended(failure(exc, job_id))
        except Exception as exc:  # noqa: BLE001 - a defect must end the job, not hang it
            return Ended(defect(exc, job_id))
        else:
            return done
        finally:
            spans.end()

    async def _ended(
        self, job_id: str, end: Done | Ended, by: str, course: _Course
    ) -> Job | None:
        """Write how a run ended; a defect in doing so ends the job as failed.

        Raises:
            BlobLostError: What the run made is nowhere any more.
        """
        write = partial(self._write_end_of_run, job_id, by=by, course=course)
        try:
            return await _lasting(job_id, partial(self._end, partial(write, end)))
        except BlobLostError:
            raise
        except Exception as exc:  # noqa: BLE001 - a job must end
            if is_gone(exc):
                _log.info("job-gone", job=job_id)
                await self.runs.in_thread(_clear, course.folder)
                return None
            write = partial(write, Ended(defect(exc, job_id)))
            return await _lasting(job_id, partial(self._end, write))

    def _work(self, job_id: str, course: _Course) -> Work:
        job = course.job or self.jobs.find(job_id)
        _check_open(job)
        if job.attempts >= _MAX_ATTEMPTS:
            msg = f"the node died {job.attempts} times while it ran this job"
            raise BackendError(msg, code="worker-died")
        bundle = self.registry.accepted(job.model, job.version)
        if bundle.sha256 != job.model_sha256:
            msg = f"model {job.model} {job.version} was replaced: submit the job again"
            raise ConflictError(msg, code="model-changed")
        course.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Work(
            job_id=job.id,
            mode=Mode(job.mode),
            bundle=bundle,
            input=self.blobs.fetch(job.input_sha256),
            keys=self.blobs.fetch(job.keys_sha256) if job.keys_sha256 else None,
            folder=course.folder,
            input_sha256=job.input_sha256,
            keys_sha256=job.keys_sha256,
            options={k: v for k, v in job.options.items() if k != SECOND_RUN_OF},
            avoid=self.peers.avoided(job.options) | self.quality.avoid(job),
        )

    def _watch(self, job_id: str, by: str, course: _Course) -> Watch:
        def started() -> None:
            job = course.job = self.jobs.start(job_id, by=by)
            self.hub.changed(job)
            _check_open(job)

        return Watch(
            started=started,
            progress=lambda progress: self.hub.report(job_id, progress),
        )

    async def _end(self, write: Callable[[], tuple[Job, bool]]) -> Job:
        """Tell everyone of an end that `write` writes, unless there was one."""
        job, ended = await self.runs.in_thread(write)
        if ended:
            job_ended(job)
            self.quality.ended(job.id)
        if job.finished:
            self.hub.changed(job)
        return job

    def _write_end_of_run(
        self, job_id: str, end: Done | Ended, by: str, course: _Course
    ) -> tuple[Job, bool]:
        """Write how a run ended, and remove what is left of it."""
        if isinstance(end, Done):
            end = course.ended = course.ended or succeeded(end)
        job, ended = self.ends.write(job_id, end, by=by, known=course.job)
        if job.finished or job.gateway != self.membership.id:  # else it runs here again
            _clear(course.folder)
        return job, ended


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _check_open(job: Job) -> None:
    """Refuse to run a job that was cancelled before it began."""
    if job.finished:
        raise JobFailedError(f"the job has {job.status}", code="cancelled")


async def _lasting(job_id: str, act: Callable[[], Awaitable[_T]]) -> _T:
    """Return what `act` gives, once what it needs is there."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await act()
        except UnavailableError as exc:
            _log.warning("job-waits", job=job_id, code=exc.code)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _latest(job: Job, inbox: Inbox, wait_s: float) -> Job:
    """Return the job as it is once it has finished or `wait_s` have passed."""
    if job.finished or not wait_s:
        return job
    async for word in news(inbox, for_s=wait_s):
        if isinstance(word, Job):
            job = word
            if job.finished:
                break
    return job
