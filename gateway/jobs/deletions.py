"""Deleting a tenant with all it has.

1. The state becomes `deleting`: from then on (a second later at other gateways) nothing
   is taken from the tenant, and its API keys are gone.
2. Its open jobs are cancelled; receipts of all its jobs enter the receipt log.
3. Every file goes that nobody else's row names, some at a time. Then in one transaction
   every row with its name goes, from every table, and the state becomes `deleted`.

A request that was under way meanwhile may leave something: `sweep` removes what deleted
tenants have. The audit log, which only grows, keeps what it says of the
tenant, and the receipt log keeps digests of its receipts.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa

from gateway.jobs.service import JobService
from gateway.logs import error_id_of
from gateway.store.database import Database
from gateway.store.jobs import OPEN
from gateway.store.tables import (
    api_keys,
    jobs,
    metadata,
    tenants,
    webhook_deliveries,
    webhooks,
)
from gateway.store.tenants import DELETED, DELETING, Tenant, Tenants
from gateway.store.uploads import NAMING, Uploads
from privacy.errors import ConflictError

_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletions:
    """Deletes tenants; any gateway goes on with what another began.

    Attributes:
        log_receipts: Puts the receipts of ended jobs into the receipt log.
    """

    database: Database
    tenants: Tenants
    uploads: Uploads
    service: JobService
    log_receipts: Callable[[], object]

    async def delete(self, tenant_id: str) -> Tenant:
        """Return a tenant after deleting it, as far as that can be done now.

        Raises:
            NotFoundError: There is none of that id.
        """
        await asyncio.to_thread(self._begin, tenant_id)
        for job_id in await asyncio.to_thread(self._open_jobs, tenant_id):
            await self.service.cancel(job_id, tenant=tenant_id)
        await asyncio.to_thread(self.log_receipts)
        await asyncio.to_thread(self._remove, tenant_id)
        return await asyncio.to_thread(self.tenants.get, tenant_id)

    async def sweep(self) -> None:
        """Go on with deletions that were broken off; remove what was left behind."""
        for tenant_id in await asyncio.to_thread(self._unfinished):
            await self.delete(tenant_id)

    async def run(self, every_s: float) -> None:
        """Sweep again and again, for ever."""
        while True:
            try:
                await self.sweep()
            except Exception as exc:  # noqa: BLE001 - the next time may go better
                error_id_of(exc, task="deletions")
            await asyncio.sleep(every_s)

    def _begin(self, tenant_id: str) -> None:
        self.tenants.get(tenant_id)
        with suppress(ConflictError):  # it is on its way, or was deleted before
            self.tenants.change(tenant_id, state=DELETING)
        with self.database.write() as c:
            c.execute(sa.delete(api_keys).where(api_keys.c.tenant == tenant_id))

    def _open_jobs(self, tenant_id: str) -> list[str]:
        query = sa.select(jobs.c.id).where(
            jobs.c.tenant == tenant_id, jobs.c.status.in_(OPEN)
        )
        with self.database.read() as c:
            return list(c.execute(query).scalars())

    def _unfinished(self) -> list[str]:
        """Return tenants on their way out, and deleted ones that have something."""
        deleted = sa.select(tenants.c.id).where(tenants.c.state == DELETED)
        having = sa.union(
            *(
                sa.select(table.c.tenant).where(table.c.tenant.in_(deleted))
                for table in tables_of_tenants()
            )
        )
        with self.database.read() as c:
            found = set(c.execute(having).scalars())
        found |= self.uploads.parts.tenants() & set(self.tenants.in_state(DELETED))
        return [*self.tenants.in_state(DELETING), *sorted(found)]

    def _remove(self, tenant_id: str) -> None:
        with self.database.read() as c:
            named = _digests(c, tenant_id)
        for at in range(0, len(named), _AT_ONCE):
            some = set(named[at : at + _AT_ONCE])
            with self.uploads.removing() as c:  # in parts: others name files meanwhile
                _unname(c, tenant_id, some)
                self.uploads.remove_unneeded(c, some)
        with self.uploads.removing() as c:
            late = set(_digests(c, tenant_id))
            hooks = sa.select(webhooks.c.id).where(webhooks.c.tenant == tenant_id)
            deliveries = sa.delete(webhook_deliveries)
            c.execute(deliveries.where(webhook_deliveries.c.webhook_id.in_(hooks)))
            for table in tables_of_tenants():
                c.execute(sa.delete(table).where(table.c.tenant == tenant_id))
            self.uploads.remove_unneeded(c, late)
            self.tenants.bury(c, tenant_id)
        self.uploads.parts.discard_all(tenant_id)


def _digests(c: sa.Connection, tenant_id: str) -> list[str]:
    """Return the digests of files that a tenant's rows name."""
    found: set[str] = set()
    for table, name in NAMING:
        query = sa.select(table.c[name]).where(table.c.tenant == tenant_id)
        found |= set(c.execute(query.distinct()).scalars())
    return sorted(found - {""})


def _unname(c: sa.Connection, tenant_id: str, digests: set[str]) -> None:
    """Have a tenant's rows name some files no more."""
    for table, name in NAMING:
        these = sa.and_(table.c.tenant == tenant_id, table.c[name].in_(digests))
        if table is jobs:
            c.execute(sa.update(jobs).where(these).values({name: ""}))
        else:
            c.execute(sa.delete(table).where(these))


def tables_of_tenants() -> list[sa.Table]:
    """Return every table whose rows belong to tenants, children first."""
    return [t for t in reversed(metadata.sorted_tables) if "tenant" in t.c]
