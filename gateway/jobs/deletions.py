"""Deleting a tenant with all it has.

1. The state becomes `deleting`: from then on (a second later at other gateways) nothing
   is taken from the tenant, and its API keys are gone.
2. Its open jobs are cancelled; receipts of all its jobs enter the receipt log.
3. In one transaction every row with its name goes, from every table, and every file
   that nobody else's row names. The state becomes `deleted`.

A request that was under way meanwhile may leave something: what deleted tenants have is
removed again by `sweep`. The audit log, which only grows, keeps what it says of the
tenant, and the receipt log keeps digests of its receipts.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa

from gateway.jobs.service import JobService
from gateway.logs import error_id_of
from gateway.store.contract_inputs import ContractInputs
from gateway.store.database import Database
from gateway.store.jobs import OPEN
from gateway.store.tables import (
    api_keys,
    jobs,
    metadata,
    webhook_deliveries,
    webhooks,
)
from gateway.store.tenants import DELETED, DELETING, Tenant, Tenants
from gateway.store.uploads import Uploads
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
    contract_inputs: ContractInputs
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
        gone = await asyncio.to_thread(self.tenants.in_state, DELETING, DELETED)
        for tenant_id in gone:
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

    def _remove(self, tenant_id: str) -> None:
        with self.uploads.removing() as c:
            named = _digests(c, tenant_id)
            hooks = sa.select(webhooks.c.id).where(webhooks.c.tenant == tenant_id)
            deliveries = sa.delete(webhook_deliveries)
            c.execute(deliveries.where(webhook_deliveries.c.webhook_id.in_(hooks)))
            for table in tables_of_tenants():
                c.execute(sa.delete(table).where(table.c.tenant == tenant_id))
            for at in range(0, len(named), _AT_ONCE):
                self.uploads.remove_unneeded(c, set(named[at : at + _AT_ONCE]))
            self.tenants.bury(c, tenant_id)
        self.uploads.parts.discard_all(tenant_id)
        self.contract_inputs.delete_all(tenant_id)


def _digests(c: sa.Connection, tenant_id: str) -> list[str]:
    """Return every digest in a tenant's rows: those of its files are among them."""
    found: set[str | None] = set()
    for table in tables_of_tenants():
        of_tenant = table.c.tenant == tenant_id
        for column in table.c:
            if column.name.endswith("sha256"):
                query = sa.select(column).where(of_tenant).distinct()
                found |= set(c.execute(query).scalars())
    return sorted(digest for digest in found if digest)


def tables_of_tenants() -> list[sa.Table]:
    """Return every table whose rows belong to tenants, children first."""
    return [t for t in reversed(metadata.sorted_tables) if "tenant" in t.c]
