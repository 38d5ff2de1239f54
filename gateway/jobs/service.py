"""Submitting, running, cancelling and waiting for jobs.

A job's life:

1. `submit` checks the request, writes the row, and begins a run of it.
2. The executor computes.
3. The receipt is signed, the blobs that were made are kept, and the terminal state is
   written with them.

The row is all that is durable. After a crash runs begin again, here or at another
gateway: a run is a pure function of its inputs, and the terminal state is written once,
by whoever comes first (a run of the gateway that the row names, or `cancel`). A run
that cannot write, since the database is away, the disk full or the receipt key rotated
elsewhere, waits and tries again.
"""

import asyncio
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from gateway.executors.base import Done, Watch, Work
from gateway.executors.scheduler import Scheduler
from gateway.jobs.hub import Hub, Inbox, news
from gateway.jobs.membership import Membership
from gateway.jobs.meter import RunMeter
from gateway.jobs.runs import Runs
from gateway.jobs.view import job_view
from gateway.logs import error_id_of
from gateway.metrics import job_ended
from gateway.peers.hops import check_options
from gateway.peers.peers import Peers
from gateway.problems import internal_problem, problem_of
from gateway.quality.service import SECOND_RUN_OF, Quality, Wish
from gateway.registry import ModelRegistry
from gateway.signing import ReceiptKeys
from gateway.store.away import StoreAwayError, full_disk
from gateway.store.blobs import BlobStore
from gateway.store.jobs import Job, Jobs, NewJob, Outcome
from gateway.store.measures import Measures
from gateway.store.parts import Owner
from gateway.store.tenants import Tenants
from gateway.store.uploads import Uploads
from gateway.traces import JobSpans, add_facts, span
from privacy.bundle import Bundle, ModePart
from privacy.encoding import Json, canonical_json, sha256_file, sha256_hex
from privacy.errors import (
    BackendError,
    ConflictError,
    FormatError,
    JobFailedError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
)
from privacy.fhe.options import DEFAULT_P_ERROR
from privacy.modes import Mode, parse_mode
from privacy.receipt import Receipt

_log = structlog.get_logger()
_MAX_OPTIONS_BYTES = 4096
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_T = TypeVar("_T")
_MAX_ATTEMPTS = 10  # over all lives of the gateway; a pool's own limits are tighter


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What a tenant asks for; see `POST /v1/jobs`."""

    model: str
    mode: str
    input_sha256: str
    version: str | None = None
    model_sha256: str | None = None
    keys_sha256: str | None = None
    options: Json
    verify: Wish = "sampled"

    @property
    def sha256(self) -> str:
        """The digest that an idempotency key is bound to."""
        return sha256_hex(canonical_json(asdict(self)))


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a run ended: the files that it made, by digest, and who computed."""

    outcome: Outcome
    files: Mapping[str, Path] = field(default_factory=dict)
    node: str = ""
    peer_receipt: bytes = b""


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
    ended: _Ended | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobService:
    """The jobs of one gateway.

    Attributes:
        node_name: In receipts of jobs that no node ended.
        runs: Those under way.
        membership: Which gateway this is.
        folder: For files of runs under way.
        simulated_enclaves: What the node's enclaves show proves nothing.
        draining: Set once no new jobs are taken.
    """

    jobs: Jobs
    blobs: BlobStore
    uploads: Uploads
    tenants: Tenants
    registry: ModelRegistry
    executor: Scheduler
    hub: Hub
    receipt_keys: ReceiptKeys
    node_name: str
    max_queued: int
    max_queued_by_tenant: int
    folder: Path
    runs: Runs
    membership: Membership
    simulated_enclaves: bool
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
                self._accept, request, tenant, idempotency_key
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
        cancelled = _Ended(Outcome("cancelled"))
        job = await self._end(partial(self._write_end, job_id, cancelled))
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
            run = partial(self._run, job_id, by, course)
            end = await _lasting(job_id, run)
            with span("job.receipt"):
                job = await self._ended(job_id, end, by, course)
            if job:
                add_facts({"privacy.status": job.status, "privacy.node": end.node})

    async def _run(self, job_id: str, by: str, course: _Course) -> Done | _Ended:
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
            return _Ended(_failure(exc, job_id))
        except Exception as exc:  # noqa: BLE001 - a defect must end the job, not hang it
            return _Ended(_defect(exc, job_id))
        else:
            return done
        finally:
            spans.end()

    async def _ended(
        self, job_id: str, end: Done | _Ended, by: str, course: _Course
    ) -> Job | None:
        """Write how a run ended; a defect in doing so ends the job as failed."""
        write = partial(self._write_end_of_run, job_id, by=by, course=course)
        try:
            return await _lasting(job_id, partial(self._end, partial(write, end)))
        except Exception as exc:  # noqa: BLE001 - a job must end
            if _is_gone(exc):
                _log.info("job-gone", job=job_id)
                await self.runs.in_thread(_clear, course.folder)
                return None
            write = partial(write, _Ended(_defect(exc, job_id)))
            return await _lasting(job_id, partial(self._end, write))

    def _accept(
        self, request: JobRequest, tenant: str, idempotency_key: str | None
    ) -> tuple[Job, bool]:
        if idempotency_key:
            earlier = self.jobs.repeated(tenant, idempotency_key, request.sha256)
            if earlier:
                return earlier, False
        mode = parse_mode(request.mode)
        bundle = self.registry.get(request.model, request.version)
        part = bundle.manifest.mode(mode)
        _check(request, mode, bundle, part)
        if Mode.TEE in mode.parts:  # it is sealed to one enclave: say so before it runs
            avoid = self.peers.avoided(request.options)
            self.executor.check_stays(mode, bundle, avoid)
        self.uploads.use(Owner(tenant, "blob", request.input_sha256))
        if request.keys_sha256:
            keys = self.uploads.use(Owner(tenant, "keys", request.keys_sha256))
            _check_keyset(keys.keyset_sha256, part)
        new = NewJob(
            id=f"job_{secrets.token_hex(16)}",
            tenant=tenant,
            idempotency_key=idempotency_key,
            request_sha256=request.sha256,
            model=bundle.manifest.name,
            version=bundle.manifest.version,
            model_sha256=bundle.sha256,
            mode=mode,
            simulated=Mode.TEE in mode.parts and self.simulated_enclaves,
            input_sha256=request.input_sha256,
            keys_sha256=request.keys_sha256 or "",
            options=_marked(request.options, part),
            gateway=self.membership.gateway_for(
                mode, partial(self.blobs.fetch, request.input_sha256)
            ),
        )
        return self.jobs.accept(
            new,
            max_queued=self.max_queued,
            max_queued_by_tenant=self._most_queued(tenant),
            also=self.quality.plan(new, request.verify),
        )

    def _most_queued(self, tenant: str) -> int:
        own = self.tenants.own(tenant).max_queued_jobs
        return self.max_queued_by_tenant if own is None else own

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
        self, job_id: str, end: Done | _Ended, by: str, course: _Course
    ) -> tuple[Job, bool]:
        """Write how a run ended, and remove what is left of it."""
        if isinstance(end, Done):
            end = course.ended = course.ended or _succeeded(end)
        written = self._write_end(job_id, end, by=by, known=course.job)
        _clear(course.folder)
        return written

    def _write_end(
        self,
        job_id: str,
        end: _Ended,
        *,
        by: str | None = None,
        known: Job | None = None,
    ) -> tuple[Job, bool]:
        def keep() -> None:
            with full_disk():
                for sha256, file in end.files.items():
                    self.blobs.keep(file, sha256)

        for sha256, file in end.files.items():
            self.blobs.bring(file, sha256)
        seal = partial(self._seal, end)
        try:
            if end.peer_receipt:
                self.peers.keep(job_id, end.peer_receipt)
            job, ended = self.jobs.finish(
                job_id, end.outcome, seal, keep=keep, by=by, known=known
            )
        except NotFoundError as exc:
            if _is_gone(exc):
                self._take_back(end)
            raise
        if not ended:
            self._take_back(end)
        return job, ended

    def _take_back(self, end: _Ended) -> None:
        """Remove what was brought of a run whose end came too late."""
        if end.files:
            with self.uploads.removing() as c:
                self.uploads.remove_unneeded(c, set(end.files))

    def _seal(self, end: _Ended, job: Job, outcome: Outcome, finished_at: str) -> bytes:
        """Return the receipt file of a job that ends now."""
        receipt = Receipt(
            job_id=job.id,
            model=job.model,
            version=job.version,
            model_sha256=job.model_sha256,
            mode=job.mode,
            status=outcome.status,
            problem=str(outcome.problem["code"]) if outcome.problem else "",
            input_sha256=job.input_sha256,
            keys_sha256=job.keys_sha256,
            output_sha256=outcome.output_sha256,
            evidence_kind=outcome.evidence_kind,
            evidence_sha256=outcome.evidence_sha256,
            node=end.node or self.node_name,
            simulated=job.simulated,
            options=job.options,
            submitted_at=job.submitted_at,
            started_at=job.started_at,
            finished_at=finished_at,
            peer_receipt_sha256=sha256_hex(end.peer_receipt)
            if end.peer_receipt
            else "",
        )
        return self.receipt_keys.sign(receipt)


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _check_open(job: Job) -> None:
    """Refuse to run a job that was cancelled before it began."""
    if job.finished:
        raise JobFailedError(f"the job has {job.status}", code="cancelled")


def _is_gone(exc: Exception) -> bool:
    """Whether a job was deleted meanwhile, with its tenant; nothing else counts."""
    return isinstance(exc, NotFoundError) and exc.code == "unknown-job"


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


def _marked(options: Json, part: ModePart) -> Json:
    """Return a job's options, with what its model's publisher relaxed for it."""
    relaxed: Json = {"insecure_srs": True} if part.params.get("insecure_srs") else {}
    if part.params.get("p_error", 0) > DEFAULT_P_ERROR:
        relaxed["p_error"] = part.params["p_error"]
    return {**options, **relaxed}


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


def _check(request: JobRequest, mode: Mode, bundle: Bundle, part: ModePart) -> None:
    if request.model_sha256 not in {None, bundle.sha256}:
        msg = (
            f"model {request.model} has digest {bundle.sha256[:12]}…, expected "
            f"{str(request.model_sha256)[:12]}…: fetch its manifest again"
        )
        raise ConflictError(msg, code="model-changed")
    wants_keys = mode is Mode.FHE and part.params.get("needs_keys", True)
    if wants_keys and not request.keys_sha256:
        msg = "this model needs evaluation keys: upload them and name them in `keys`"
        raise FormatError(msg, code="keys-missing")
    if request.keys_sha256 and mode is not Mode.FHE:
        msg = f"mode {mode} takes no evaluation keys: leave `keys` out"
        raise FormatError(msg, code="keys-not-wanted")
    if SECOND_RUN_OF in request.options:
        msg = f"the option {SECOND_RUN_OF} is the gateway's own: leave it out"
        raise FormatError(msg, code="reserved-option")
    if len(canonical_json(request.options)) > _MAX_OPTIONS_BYTES:
        msg = f"options have more than {_MAX_OPTIONS_BYTES} bytes: leave some out"
        raise FormatError(msg, code="options-too-long")
    check_options(request.options)


def _check_keyset(found: str, part: ModePart) -> None:
    """Refuse keys that were uploaded for another key set than the model's."""
    expected = part.params.get("keyset_sha256", "")
    if found and expected and found != expected:
        msg = (
            f"these evaluation keys were uploaded for key set {found[:12]}…, the model "
            f"has {expected[:12]}…: name the keys of that one"
        )
        raise FormatError(msg, code="fhe-keys-mismatch")


def _succeeded(done: Done) -> _Ended:
    """Return how a run ended that gave files."""
    output_sha256 = sha256_file(done.output)
    evidence_sha256 = sha256_file(done.evidence) if done.evidence else ""
    files = {output_sha256: done.output}
    if done.evidence:
        files[evidence_sha256] = done.evidence
    outcome = Outcome(
        "succeeded",
        output_sha256=output_sha256,
        evidence_sha256=evidence_sha256,
        evidence_kind=done.evidence_kind,
        peer=done.node if done.peer_receipt else "",
    )
    return _Ended(outcome, files, done.node, done.peer_receipt)


def _defect(exc: Exception, job_id: str) -> Outcome:
    """Return how a job ends under which the gateway itself failed; it is logged."""
    return Outcome("failed", internal_problem(error_id_of(exc, job=job_id)))


def _failure(exc: PrivacyError, job_id: str) -> Outcome:
    if exc.code == "cancelled":
        return Outcome("cancelled")
    _log.warning("job-failed", job=job_id, code=exc.code, family=type(exc).__name__)
    return Outcome("failed", problem_of(exc, instance=f"/v1/jobs/{job_id}"))
