"""Jobs as tenants see them. A terminal state is written exactly once."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import sqlalchemy as sa

from gateway.store.audit import WHO, Act, checked, note
from gateway.store.database import BLOBS, Database, lock_number
from gateway.store.log_tables import audit_pending
from gateway.store.parts import unknown_upload
from gateway.store.tables import jobs, uploads
from privacy.clock import now
from privacy.encoding import Json
from privacy.errors import ConflictError, LimitError, NotFoundError, PrivacyError

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
OPEN = ("queued", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job that was checked and may be accepted.

    Attributes:
        gateway: Who runs it.
    """

    id: str
    tenant: str
    idempotency_key: str | None
    request_sha256: str
    model: str
    version: str
    model_sha256: str
    mode: str
    simulated: bool
    input_sha256: str
    keys_sha256: str
    options: Json
    gateway: str = ""
    submitted_at: str = field(default_factory=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(NewJob):
    """A job as stored.

    Attributes:
        progress: The latest report, a second old or so, if several gateways share the
            database.
    """

    status: str
    attempts: int
    started_at: str
    finished_at: str
    problem: Json | None
    output_sha256: str
    evidence_sha256: str
    evidence_kind: str
    peer: str
    progress: Json | None = None

    @property
    def finished(self) -> bool:
        """Whether the job has reached a state that never changes again."""
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended; `peer` is the other operator's gateway that ran it."""

    status: str
    problem: Json | None = None
    output_sha256: str = ""
    evidence_sha256: str = ""
    evidence_kind: str = ""
    peer: str = ""


Also = Callable[[sa.Connection], None]
"""Writes more in a transaction."""

_CHOSEN = [jobs.c[f.name] for f in fields(Job)]
# Written once: putting a statement together takes longer than SQLite takes to run it.
_BY_ID = sa.select(*_CHOSEN).where(jobs.c.id == sa.bindparam("job_id"))
_BY_ID_AND_TENANT = _BY_ID.where(jobs.c.tenant == sa.bindparam("tenant"))
_BY_IDEMPOTENCY_KEY = sa.select(*_CHOSEN).where(
    jobs.c.tenant == sa.bindparam("tenant"),
    jobs.c.idempotency_key == sa.bindparam("key"),
)
_NEW = (*(f.name for f in fields(NewJob)), "status")
_QUEUED = (
    sa.select(
        sa.func.count().label("everyones"),
        sa.func.count().filter(jobs.c.tenant == sa.bindparam("tenant")).label("own"),
    )
    .where(jobs.c.status == "queued", jobs.c.mode == sa.bindparam("mode"))
    .subquery()
)
_INSERT = sa.insert(jobs)


def _uploaded(kind: str, column: str) -> sa.Exists:
    """Whether the tenant has the upload that a column of its new job names."""
    return sa.exists().where(
        uploads.c.tenant == sa.bindparam("tenant"),
        uploads.c.kind == kind,
        uploads.c.sha256 == sa.bindparam(column),
    )


_KEYS_SHA256 = sa.bindparam("keys_sha256", type_=jobs.c.keys_sha256.type)
_HAS_INPUT = _uploaded("blob", "input_sha256")
_HAS_KEYS = sa.or_(_KEYS_SHA256 == "", _uploaded("keys", "keys_sha256"))
_INSERT_IF_ROOM = (
    sa.insert(jobs)
    .from_select(
        _NEW,
        sa.select(*(sa.bindparam(n, type_=jobs.c[n].type).label(n) for n in _NEW))
        .select_from(_QUEUED)
        .where(
            _QUEUED.c.everyones < sa.bindparam("most", type_=sa.Integer),
            _QUEUED.c.own < sa.bindparam("most_own", type_=sa.Integer),
            # Unless deleted since they were looked at. On PostgreSQL a deletion that
            # commits while this runs is missed: that job fails, and says what is gone.
            _HAS_INPUT,
            _HAS_KEYS,
        ),
    )
    .returning(jobs.c.seq)
)
_WHAT_IS_HERE = sa.select(_HAS_INPUT, _HAS_KEYS)
# Where each statement is a round trip: both in one, a transaction by itself.
_MADE = _INSERT_IF_ROOM.cte("made")
_ACT = sa.bindparam("act", type_=audit_pending.c.act.type)
_INSERT_AND_NOTE = (
    sa.insert(audit_pending)
    .from_select(["act"], sa.select(_ACT).select_from(_MADE))
    .returning(audit_pending.c.id)
)
_START = (
    sa.update(jobs)
    .where(
        jobs.c.id == sa.bindparam("job_id"),
        jobs.c.gateway == sa.bindparam("by"),
        jobs.c.status.in_(OPEN),
    )
    .values(
        status="running",
        attempts=jobs.c.attempts + 1,
        started_at=sa.case(
            (jobs.c.started_at == "", sa.bindparam("at", type_=sa.String)),
            else_=jobs.c.started_at,
        ),
    )
    .returning(*_CHOSEN)
)
_FINISH = (
    sa.update(jobs)
    .where(
        jobs.c.id == sa.bindparam("job_id"),
        jobs.c.status.in_(OPEN),
        jobs.c.gateway == sa.bindparam("its_gateway"),
        jobs.c.attempts == sa.bindparam("its_attempts"),
    )
    .values(
        {
            name: sa.bindparam(name)
            for name in (*(f.name for f in fields(Outcome)), "finished_at", "receipt")
        }
    )
)
# Its lock is held until the transaction ends, as `Database.lock` has it.
_FINISH_WITH_BLOBS = _FINISH.where(
    sa.select(sa.func.pg_advisory_xact_lock_shared(lock_number(BLOBS)))
    .scalar_subquery()
    .is_not(None)
)
_REPORT = (
    sa.update(jobs)
    .where(
        jobs.c.id == sa.bindparam("job_id"),
        jobs.c.gateway == sa.bindparam("by"),
        jobs.c.status == "running",
    )
    .values(progress=sa.bindparam("report"))
)
_OPEN_OF = sa.select(jobs.c.id).where(
    jobs.c.gateway == sa.bindparam("by"), jobs.c.status.in_(OPEN)
)


class Jobs:
    """The jobs table."""

    def __init__(self, database: Database) -> None:
        """Use the table in `database`."""
        self._database = database

    def repeated(self, tenant: str, key: str, request_sha256: str) -> Job | None:
        """Return the job that the same request made before, if any.

        Raises:
            ConflictError: The key was used for another request.
        """
        with self._database.read() as connection:
            return _repeated(connection, tenant, key, request_sha256)

    def accept(
        self,
        new: NewJob,
        *,
        max_queued: int,
        max_queued_by_tenant: int,
        also: Also | None = None,
    ) -> tuple[Job, bool]:
        """Return the stored job and whether it is new (or an earlier identical one).

        Args:
            new: The job.
            max_queued: Of the job's mode, so that no mode shuts out another.
            max_queued_by_tenant: Of the job's mode and tenant.
            also: What to write with a new job, in its transaction.

        Raises:
            ConflictError: The idempotency key was used for another request.
            LimitError: So many jobs are waiting already.
            NotFoundError: What it names was deleted since it was looked at.
        """
        limits = {"most": max_queued, "most_own": max_queued_by_tenant}
        try:
            if self._insert({**_row(new), **limits}, _submitted(new), also):
                return _accepted(new), True
            refusal: Exception = self._refusal(new)
        except sa.exc.IntegrityError as exc:  # the key was used meanwhile, probably
            refusal = exc
        key = new.idempotency_key
        earlier = key and self.repeated(new.tenant, key, new.request_sha256)
        if not earlier:
            raise refusal
        return earlier, False

    def _refusal(self, new: NewJob) -> PrivacyError:
        """Return why a job was not written: an upload has gone, or there is no room."""
        named = ("tenant", "input_sha256", "keys_sha256")
        with self._database.read() as c:
            found = c.execute(_WHAT_IS_HERE, {n: getattr(new, n) for n in named}).one()
        has_input, has_keys = found
        if not has_input:
            return unknown_upload("blob", new.input_sha256)
        if not has_keys:
            return unknown_upload("keys", new.keys_sha256)
        return _queue_full(new.mode)

    def _insert(self, row: Json, submitted: Act, also: Also | None) -> bool:
        """Write a job and that it came; return whether it could be taken."""
        if self._database.shared and not also:
            with self._database.statement() as c:
                made = c.execute(_INSERT_AND_NOTE, {**row, "act": checked(submitted)})
                return made.first() is not None
        with self._database.write() as c:
            if not c.execute(_INSERT_IF_ROOM, row).first():
                return False
            note(c, submitted)
            if also:
                also(c)
            return True

    def get(self, job_id: str, *, tenant: str) -> Job:
        """Return a tenant's job.

        Raises:
            NotFoundError: The tenant has none of that id.
        """
        with self._database.read() as connection:
            return _one(connection, _BY_ID_AND_TENANT, job_id=job_id, tenant=tenant)

    def asked_to_cancel(self, job_id: str, *, tenant: str) -> None:
        """Note that a tenant's job is to be cancelled, unless it has ended.

        Raises:
            NotFoundError: The tenant has none of that id.
        """
        if not self.get(job_id, tenant=tenant).finished:
            who = replace(WHO.get(), tenant=tenant)
            with self._database.write() as c:
                note(c, Act(action="job-cancelled", target=job_id, who=who))

    def find(self, job_id: str) -> Job:
        """Return a job whoever owns it; for the gateway's own use."""
        with self._database.read() as connection:
            return _one(connection, _BY_ID, job_id=job_id)

    def newest(self, *, tenant: str, limit: int, status: str | None) -> list[Job]:
        """Return a tenant's jobs, newest first."""
        query = sa.select(*_CHOSEN).where(jobs.c.tenant == tenant)
        if status:
            query = query.where(jobs.c.status == status)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(jobs.c.seq.desc()).limit(limit))
            return [_job(row) for row in rows]

    def unfinished(self) -> list[str]:
        """Return the ids of jobs that are not in a terminal state, oldest first."""
        query = sa.select(jobs.c.id).where(jobs.c.status.in_(OPEN))
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(jobs.c.seq)).scalars())

    def count_open(self) -> dict[tuple[str, str], int]:
        """Return how many jobs wait and run, by mode and status."""
        of = (jobs.c.mode, jobs.c.status)
        query = sa.select(*of, sa.func.count()).where(jobs.c.status.in_(OPEN))
        with self._database.read() as connection:
            rows = connection.execute(query.group_by(*of))
            return {(mode, status): count for mode, status, count in rows}

    def receipt(self, job_id: str) -> bytes | None:
        """Return the receipt file of a job, None while it is not finished."""
        query = sa.select(jobs.c.receipt).where(jobs.c.id == job_id)
        with self._database.read() as connection:
            receipt: bytes | None = connection.execute(query).scalar_one()
        return receipt

    def open_of(self, gateway: str) -> set[str]:
        """Return the jobs that a gateway is to run and that have not finished."""
        with self._database.read() as connection:
            return set(connection.execute(_OPEN_OF, {"by": gateway}).scalars())

    def of(self, job_ids: Collection[str]) -> list[Job]:
        """Return those of these jobs that exist, whoever owns them."""
        if not job_ids:
            return []
        query = sa.select(*_CHOSEN).where(jobs.c.id.in_(job_ids))
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def report(self, gateway: str, progress: Mapping[str, Json]) -> None:
        """Write down how far the jobs are that a gateway runs."""
        rows = [
            {"job_id": job_id, "by": gateway, "report": report}
            for job_id, report in progress.items()
        ]
        if rows:
            with self._database.write() as connection:
                connection.execute(_REPORT, rows)

    def start(self, job_id: str, *, by: str = "") -> Job:
        """Count one attempt and return the job; a finished job stays as it is.

        Raises:
            ConflictError: Another gateway than `by` runs it ("job-elsewhere").
            NotFoundError: There is no such job.
        """
        values = {"job_id": job_id, "at": now(), "by": by}
        with self._database.statement() as connection:
            row = connection.execute(_START, values).one_or_none()
        if row is not None:
            return _job(row)
        job = self.find(job_id)
        if not job.finished:
            msg = "another gateway runs this job by now"
            raise ConflictError(msg, code="job-elsewhere")
        return job

    def finish(
        self,
        job_id: str,
        outcome: Outcome,
        seal: Callable[[Job, Outcome, str], bytes],
        *,
        keep: Also = lambda _: None,
        by: str | None = None,
        known: Job | None = None,
    ) -> tuple[Job, bool]:
        """Write a job's terminal state with its receipt, once.

        Args:
            job_id: The job.
            outcome: How it ended; ignored if it has ended already.
            seal: Makes the receipt from the job, the outcome and the time.
            keep: Has what the outcome names, in the same transaction: who removes
                blobs that no row names waits for its end.
            by: Ignore it also if another gateway runs the job by now.
            known: The job as it is likely to be, which saves reading it.

        Returns:
            The job as stored, and whether this call ended it.
        """
        while True:
            job, known = known or self.find(job_id), None
            if job.finished or by not in {None, job.gateway}:
                return job, False
            at = now()
            ended = {f.name: getattr(outcome, f.name) for f in fields(Outcome)}
            ended["finished_at"] = at
            row = {**ended, "receipt": seal(job, outcome, at)}
            if self._write_end(job, row, keep):
                return replace(job, **ended), True

    def _write_end(self, job: Job, row: Json, keep: Also) -> bool:
        """Write the end of a job unless it has changed since it was read."""
        as_read = {"its_gateway": job.gateway, "its_attempts": job.attempts}
        with self._database.write() as c:
            names_blobs = self._database.shared and row["output_sha256"]
            finish = _FINISH_WITH_BLOBS if names_blobs else _FINISH
            if not c.execute(finish, {**row, **as_read, "job_id": job.id}).rowcount:
                return False
            keep(c)
            return True


def insert_job(c: sa.Connection, new: NewJob) -> None:
    """Write a job that waits, in a write transaction."""
    c.execute(_INSERT, _row(new))
    note(c, _submitted(new))


def _row(new: NewJob) -> Json:
    return {
        **{f.name: getattr(new, f.name) for f in fields(NewJob)},
        "status": "queued",
    }


def _accepted(new: NewJob) -> Job:
    """Return a job as `insert_job` writes it."""
    return Job(
        **_row(new),
        attempts=0,
        started_at="",
        finished_at="",
        problem=None,
        output_sha256="",
        evidence_sha256="",
        evidence_kind="",
        peer="",
    )


def _queue_full(mode: str) -> LimitError:
    msg = f"many jobs of mode {mode} are waiting already: try later"
    return LimitError(msg, code="queue-full")


def _submitted(new: NewJob) -> Act:
    names = ("mode", "model_sha256", "input_sha256", "keys_sha256")
    return Act(
        action="job-submitted",
        target=new.id,
        who=replace(WHO.get(), tenant=new.tenant),
        details={name: getattr(new, name) for name in names},
    )


def _job(row: sa.Row[tuple[object, ...]]) -> Job:
    return Job(**row._mapping)  # noqa: SLF001


def _one(connection: sa.Connection, query: sa.Select[Any], **values: str) -> Job:
    row = connection.execute(query, values).one_or_none()
    if row is None:
        raise NotFoundError("there is no such job", code="unknown-job")
    return _job(row)


def _repeated(
    connection: sa.Connection, tenant: str, key: str, request_sha256: str
) -> Job | None:
    row = connection.execute(
        _BY_IDEMPOTENCY_KEY, {"tenant": tenant, "key": key}
    ).one_or_none()
    if row is None:
        return None
    job = _job(row)
    if job.request_sha256 != request_sha256:
        msg = "this Idempotency-Key came with another request: use a new key"
        raise ConflictError(msg, code="idempotency-conflict")
    return job
