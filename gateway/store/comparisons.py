"""What becomes of jobs that are looked at twice.

    planned ──► running ──► compare ──► agreed
       │           │  ▲         │
       │           │  └─────────┤ (a third run, after two that differ)
       ▼           ▼            ▼
    checked    impossible    disputed

`planned` is written with the job, before anybody runs it. Each step is taken by whoever
finds the state as it was: several gateways may try.
"""

from dataclasses import dataclass, fields

import sqlalchemy as sa

from gateway.store.database import Database
from gateway.store.jobs import TERMINAL, Also, NewJob, insert_job
from gateway.store.tables import comparisons, jobs
from privacy.clock import now
from privacy.errors import NotFoundError

_AT_ONCE = 20
_ENDED = ("agreed", "checked", "impossible")
_OLD_S = 90 * 86400.0
_PATIENCE_S = 30 * 86400.0
"""How long an owner may take to compare; results are kept for less by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One job that is looked at twice.

    Attributes:
        why: `always` (its tenant asked) or `sampled` (it was drawn).
        state: See the module.
        detail: In words, where the state wants them.
        second_job_id: The second run, a job of its own; "" while there is none.
        dispute_id: The dispute that came of it, or "".
    """

    job_id: str
    tenant: str
    mode: str
    why: str
    state: str
    detail: str
    second_job_id: str
    third_job_id: str
    dispute_id: str
    created_at: str
    changed_at: str

    @property
    def job_ids(self) -> list[str]:
        """The runs, in their order."""
        found = (self.job_id, self.second_job_id, self.third_job_id)
        return [job_id for job_id in found if job_id]


_CHOSEN = [comparisons.c[f.name] for f in fields(Comparison)]


def plan(c: sa.Connection, job: NewJob, why: str) -> None:
    """Write down that a job will be looked at twice, in the transaction it comes in."""
    at = now()
    c.execute(
        sa.insert(comparisons).values(
            job_id=job.id,
            tenant=job.tenant,
            mode=job.mode,
            why=why,
            state="planned",
            detail="",
            second_job_id="",
            third_job_id="",
            dispute_id="",
            created_at=at,
            changed_at=at,
        )
    )


class Comparisons:
    """The table of comparisons."""

    def __init__(self, database: Database) -> None:
        """Use the table in `database`."""
        self._database = database

    def get(self, job_id: str, *, tenant: str) -> Comparison:
        """Return the comparison of a tenant's job.

        Raises:
            NotFoundError: There is none.
        """
        query = sa.select(*_CHOSEN).where(
            comparisons.c.job_id == job_id, comparisons.c.tenant == tenant
        )
        row = None
        if job_id.isprintable():  # PostgreSQL takes no NUL
            with self._database.read() as c:
                row = c.execute(query).one_or_none()
        if row is None:
            msg = "this job is not run a second time: submit it with verify: always"
            raise NotFoundError(msg, code="no-comparison")
        return Comparison(**row._mapping)  # noqa: SLF001

    def find(self, job_id: str) -> Comparison | None:
        """Return the comparison of a job, whoever owns it; for the gateway itself."""
        query = sa.select(*_CHOSEN).where(comparisons.c.job_id == job_id)
        with self._database.read() as c:
            row = c.execute(query).one_or_none()
        return Comparison(**row._mapping) if row else None  # noqa: SLF001

    def of_tenant(
        self, tenant: str, *, state: str | None, limit: int
    ) -> list[Comparison]:
        """Return a tenant's comparisons, the newest first."""
        query = sa.select(*_CHOSEN).where(comparisons.c.tenant == tenant)
        if state:
            query = query.where(comparisons.c.state == state)
        query = query.order_by(comparisons.c.created_at.desc()).limit(limit)
        with self._database.read() as c:
            return [Comparison(**row._mapping) for row in c.execute(query)]  # noqa: SLF001

    def due(self) -> list[Comparison]:
        """Return those whose next step can be taken: the run it waits for has ended."""
        waits_for = sa.case(
            (comparisons.c.state == "planned", comparisons.c.job_id),
            (comparisons.c.third_job_id != "", comparisons.c.third_job_id),
            else_=comparisons.c.second_job_id,
        )
        query = (
            sa.select(*_CHOSEN)
            .join(jobs, jobs.c.id == waits_for)
            .where(
                comparisons.c.state.in_(("planned", "running")),
                jobs.c.status.in_(TERMINAL),
            )
            .order_by(comparisons.c.created_at)
            .limit(_AT_ONCE)
        )
        with self._database.read() as c:
            return [Comparison(**row._mapping) for row in c.execute(query)]  # noqa: SLF001

    def sweep(self) -> int:
        """Forget what has ended long ago; return 0, for no file goes."""
        ended = comparisons.c.state.in_(_ENDED)
        with self._database.write() as c:
            old = comparisons.c.changed_at < now(plus_s=-_OLD_S)
            c.execute(sa.delete(comparisons).where(ended, old))
            late = comparisons.c.changed_at < now(plus_s=-_PATIENCE_S)
            c.execute(
                sa.update(comparisons)
                .where(comparisons.c.state == "compare", late)
                .values(
                    state="impossible",
                    detail="its owner did not compare it",
                    changed_at=now(),
                )
            )
        return 0

    def running(self) -> int:
        """Return how many wait for another run just now."""
        query = sa.select(sa.func.count()).where(comparisons.c.state == "running")
        with self._database.read() as c:
            return int(c.execute(query).scalar_one())

    def step(
        self,
        old: Comparison,
        state: str,
        *,
        detail: str = "",
        also: Also | None = None,
        **ids: str,
    ) -> bool:
        """Take a step unless somebody else has; tell whether it was taken.

        Args:
            old: As it was found.
            state: The next one.
            detail: In words.
            also: What to write in the same transaction.
            ids: Columns that are known now, such as `second_job_id`.
        """
        found = (
            comparisons.c.job_id == old.job_id,
            comparisons.c.state == old.state,
            comparisons.c.third_job_id == old.third_job_id,
        )
        values = {"state": state, "detail": detail, "changed_at": now(), **ids}
        with self._database.write() as c:
            done = c.execute(sa.update(comparisons).where(*found).values(**values))
            if not done.rowcount:
                return False
            if also:
                also(c)
            return True

    def run_again(
        self, old: Comparison, new: NewJob, *, also: Also | None = None, **ids: str
    ) -> bool:
        """Accept another run of a job; tell whether it was this call that did."""
        which = "third_job_id" if old.second_job_id else "second_job_id"

        def accept(c: sa.Connection) -> None:
            insert_job(c, new)
            if also:
                also(c)

        return self.step(old, "running", also=accept, **{which: new.id}, **ids)
