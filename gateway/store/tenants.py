"""Tenants: who they are, whether they may ask, and limits of their own.

A tenant that was deleted leaves its row, with nothing but its id, so that nobody can
take its place and be mistaken for it.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from gateway.store.audit import Act, note
from gateway.store.database import Database
from gateway.store.tables import tenants
from privacy.clock import now
from privacy.encoding import Json
from privacy.errors import AuthError, ConflictError, NotFoundError

ACTIVE, SUSPENDED, DELETING, DELETED = "active", "suspended", "deleting", "deleted"
FRESH_S = 1.0
"""How old what a gateway remembers of keys and tenants may be."""

_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Limits of one tenant; None for the gateway's own.

    Attributes:
        quota_bytes: Of all its uploads.
        max_queued_jobs: Waiting jobs of one mode.
        submits_per_minute: See `gateway.identity.rates`, as for the others; 0 for any.
        verify_share: Of jobs that are looked at twice, 0 to 1.
    """

    quota_bytes: int | None = None
    max_queued_jobs: int | None = None
    submits_per_minute: int | None = None
    uploads_per_minute: int | None = None
    reads_per_minute: int | None = None
    verify_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant(Own):
    """A tenant as stored."""

    id: str
    name: str
    state: str
    created_at: str
    changed_at: str

    @property
    def rates(self) -> dict[str, int | None]:
        """Its own requests a minute, by class."""
        return {
            "submit": self.submits_per_minute,
            "upload": self.uploads_per_minute,
            "read": self.reads_per_minute,
        }

    def check(self) -> None:
        """Refuse what a tenant that is not active asks.

        Raises:
            AuthError: It is not.
        """
        if self.state == SUSPENDED:
            msg = f"tenant {self.id} is suspended: ask the operator"
            raise AuthError(msg, code="tenant-suspended")
        if self.state != ACTIVE:
            raise AuthError(f"tenant {self.id} was deleted", code="no-tenant")


class Tenants:
    """The tenants of this database, remembered for a second."""

    def __init__(self, database: Database) -> None:
        """Use the table in `database`."""
        self._database = database
        self._remembered: dict[str, tuple[float, Tenant]] = {}

    def create(
        self, tenant_id: str, *, name: str = "", own: Own | None = None
    ) -> Tenant:
        """Return a new tenant.

        Raises:
            ConflictError: There is one of that id, or was.
        """
        at = now()
        tenant = Tenant(
            id=tenant_id,
            name=name,
            state=ACTIVE,
            created_at=at,
            changed_at=at,
            **asdict(own or Own()),
        )
        add = self._database.insert(tenants).on_conflict_do_nothing()
        with self._database.write() as c:
            if not c.execute(add, asdict(tenant)).rowcount:
                msg = f"there is, or was, a tenant {tenant_id}: take another name"
                raise ConflictError(msg, code="tenant-exists")
            note(c, Act(action="tenant-made", target=tenant_id))
        return tenant

    def get(self, tenant_id: str) -> Tenant:
        """Return a tenant, a deleted one included.

        Raises:
            NotFoundError: There is none of that id.
        """
        query = sa.select(tenants).where(tenants.c.id == tenant_id)
        with self._database.read() as c:
            row = c.execute(query).one_or_none()
        if row is None:
            msg = f"there is no tenant {tenant_id[:63]!r}: see `privacy tenants list`"
            raise NotFoundError(msg, code="unknown-tenant")
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        found = Tenant(**row._mapping)  # noqa: SLF001
        self._remembered[tenant_id] = time.monotonic(), found
        return found

    def recent(self, tenant_id: str) -> Tenant | None:
        """Return a tenant as it was within the last second, if that is known."""
        at, found = self._remembered.get(tenant_id, (0.0, None))
        return found if time.monotonic() - at < FRESH_S else None

    def own(self, tenant_id: str) -> Own:
        """Return a tenant's own limits; none if there is no such tenant."""
        try:
            return self.recent(tenant_id) or self.get(tenant_id)
        except NotFoundError:
            return Own()

    def all(self) -> list[Tenant]:
        """Return every tenant but deleted ones, by id."""
        query = sa.select(tenants).where(tenants.c.state != DELETED)
        with self._database.read() as c:
            rows = c.execute(query.order_by(tenants.c.id)).all()
        return [Tenant(**row._mapping) for row in rows]  # noqa: SLF001

    def in_state(self, *states: str) -> list[str]:
        """Return the ids of tenants in one of these states."""
        query = sa.select(tenants.c.id).where(tenants.c.state.in_(states))
        with self._database.read() as c:
            return list(c.execute(query.order_by(tenants.c.id)).scalars())

    def change(self, tenant_id: str, **values: Any) -> Tenant:
        """Return a tenant after changing columns of it.

        Raises:
            NotFoundError: There is none of that id.
            ConflictError: It is deleted, or about to be.
        """
        tenant = self.get(tenant_id)
        changes = {**values, "changed_at": now()}
        is_there = tenants.c.state.in_((ACTIVE, SUSPENDED))
        query = sa.update(tenants).where(tenants.c.id == tenant_id, is_there)
        with self._database.write() as c:
            if not c.execute(query.values(**changes)).rowcount:
                msg = f"tenant {tenant_id} is deleted: nothing of it can be changed"
                raise ConflictError(msg, code="tenant-deleted")
            details: Json = {"changed": sorted(values)}
            note(c, Act(action="tenant-changed", target=tenant_id, details=details))
        self._remembered.pop(tenant_id, None)
        return replace(tenant, **changes)

    def bury(self, c: sa.Connection, tenant_id: str) -> None:
        """Leave nothing of a tenant but its id.

        Args:
            c: In the write transaction that removes what it has.
            tenant_id: One that is about to be deleted.
        """
        nothing = dict.fromkeys(Own.__dataclass_fields__)
        is_there = tenants.c.state == DELETING
        query = sa.update(tenants).where(tenants.c.id == tenant_id, is_there)
        values = {"name": "", "state": DELETED, "changed_at": now(), **nothing}
        if c.execute(query.values(**values)).rowcount:
            note(c, Act(action="tenant-deleted", target=tenant_id))
        self._remembered.pop(tenant_id, None)
