"""Disputes: runs of one job that do not agree, with what shows it, kept for good."""

from dataclasses import asdict, dataclass, fields, replace

import sqlalchemy as sa

from gateway.store.audit import Act
from gateway.store.audit import note as note_act
from gateway.store.database import BLOBS, Database
from gateway.store.tables import disputes, pins
from privacy.clock import now
from privacy.encoding import Json
from privacy.errors import ConflictError, NotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """Runs of one job that do not agree.

    Attributes:
        state: `open` (nobody can tell who is at fault), `decided` or `resolved` (by an
            operator; what it pinned may go).
        verdict: What decided it: `evidence`, `majority`, `operator`, or "".
        at_fault: The node, "" if that is open or nobody is.
        runs: For each run `job_id`, `node` and the `receipt` as signed.
        claims: What was reported, in its order: digests and counts, never answers.
    """

    id: str
    job_id: str
    tenant: str
    model: str
    version: str
    model_sha256: str
    mode: str
    state: str
    verdict: str
    at_fault: str
    runs: list[Json]
    claims: list[Json]
    note: str
    opened_at: str
    resolved_at: str
    resolved_by: str


_CHOSEN = [disputes.c[f.name] for f in fields(Dispute)]


class Disputes:
    """The table of disputes, and the files that they keep from being removed."""

    def __init__(self, database: Database) -> None:
        """Use the table in `database`."""
        self._database = database

    def save(self, c: sa.Connection, dispute: Dispute, pinned: set[str]) -> None:
        """Write a dispute, new or changed, and pin what shows it.

        Args:
            c: In a write transaction.
            dispute: As it is from now on.
            pinned: Digests of the files that must not go while it is not resolved.
        """
        if pinned:
            self._database.lock(c, BLOBS, shared=True)
        c.execute(sa.delete(disputes).where(disputes.c.id == dispute.id))
        c.execute(sa.insert(disputes).values(**asdict(dispute)))
        held = sa.select(pins.c.sha256).where(pins.c.dispute_id == dispute.id)
        for sha256 in pinned - set(c.execute(held).scalars()):
            values = {"dispute_id": dispute.id, "tenant": dispute.tenant}
            c.execute(sa.insert(pins).values(**values, sha256=sha256))

    def get(self, dispute_id: str, *, tenant: str | None) -> Dispute:
        """Return a dispute.

        Args:
            dispute_id: Its id.
            tenant: Whose; None for an operator, who sees all.

        Raises:
            NotFoundError: There is none.
        """
        query = sa.select(*_CHOSEN).where(disputes.c.id == dispute_id)
        if tenant is not None:
            query = query.where(disputes.c.tenant == tenant)
        row = None
        if dispute_id.isprintable():  # PostgreSQL takes no NUL
            with self._database.read() as c:
                row = c.execute(query).one_or_none()
        if row is None:
            raise NotFoundError("there is no such dispute", code="unknown-dispute")
        return Dispute(**row._mapping)  # noqa: SLF001

    def newest(
        self, *, tenant: str | None, state: str | None, limit: int
    ) -> list[Dispute]:
        """Return disputes, the newest first; see `get`."""
        query = sa.select(*_CHOSEN)
        if tenant is not None:
            query = query.where(disputes.c.tenant == tenant)
        if state:
            query = query.where(disputes.c.state == state)
        query = query.order_by(disputes.c.opened_at.desc(), disputes.c.id).limit(limit)
        with self._database.read() as c:
            return [Dispute(**row._mapping) for row in c.execute(query)]  # noqa: SLF001

    def accusers(self, c: sa.Connection, node: str) -> set[str]:
        """Return the tenants by whose disputes a node is at fault."""
        query = sa.select(disputes.c.tenant).where(disputes.c.at_fault == node)
        return set(c.execute(query.distinct()).scalars())

    def resolve(self, dispute_id: str, *, at_fault: str, note: str, by: str) -> Dispute:
        """Return a dispute after an operator has closed it; its files may go.

        Raises:
            NotFoundError: There is none, or no such node took part.
            ConflictError: It was resolved before.
        """
        found = self.get(dispute_id, tenant=None)
        if found.state == "resolved":
            msg = f"dispute {dispute_id} was resolved by {found.resolved_by} before"
            raise ConflictError(msg, code="resolved")
        nodes = {run["node"] for run in found.runs}
        if at_fault and at_fault not in nodes:
            msg = (
                f"node {at_fault[:63]} took no part: one of {', '.join(sorted(nodes))}"
            )
            raise NotFoundError(msg, code="unknown-node")
        closed = replace(
            found,
            state="resolved",
            verdict="operator",
            at_fault=at_fault,
            note=note,
            resolved_at=now(),
            resolved_by=by,
        )
        with self._database.write() as c:
            self.save(c, closed, set())
            details = {"at_fault": at_fault}
            note_act(
                c, Act(action="dispute-resolved", target=dispute_id, details=details)
            )
            c.execute(sa.delete(pins).where(pins.c.dispute_id == dispute_id))
        return closed
