"""Tenants: made, limited, suspended and deleted by an operator."""

from dataclasses import asdict

from fastapi import APIRouter

from gateway.api.auth import Admin, GatewayDep, TenantAdmin
from gateway.api.schemas import TenantChange, TenantIn, TenantOut, TenantsOut
from gateway.identity.caller import Caller
from gateway.store.tenants import Own
from privacy.encoding import Json
from privacy.errors import ConflictError, NotFoundError

router = APIRouter(prefix="/v1/tenants", tags=["tenants"])


@router.post("", response_model=TenantOut, status_code=201)
def create_tenant(gateway: GatewayDep, _caller: Admin, body: TenantIn) -> Json:
    """Make a tenant; its first API key is made next."""
    own = Own(**body.model_dump(exclude={"id", "name"}))
    return asdict(gateway.tenants.create(body.id, name=body.name, own=own))


@router.get("", response_model=TenantsOut)
def list_tenants(gateway: GatewayDep, _caller: Admin) -> Json:
    """Return every tenant but deleted ones."""
    return {"tenants": [asdict(t) for t in gateway.tenants.all()]}


@router.get("/{tenant_id}", response_model=TenantOut)
def get_tenant(gateway: GatewayDep, caller: TenantAdmin, tenant_id: str) -> Json:
    """Return a tenant: an operator any, a tenant's admin its own."""
    if tenant_id != caller.tenant and not caller.allows("admin"):
        raise NotFoundError("there is no such tenant", code="unknown-tenant")
    return asdict(gateway.tenants.get(tenant_id))


@router.patch("/{tenant_id}", response_model=TenantOut)
def change_tenant(
    gateway: GatewayDep, caller: Admin, tenant_id: str, body: TenantChange
) -> Json:
    """Change what is given: limits (null for the gateway's own), name, state."""
    changes = body.model_dump(exclude_unset=True)
    if changes.get("state", "active") != "active":
        _check_foreign(caller, tenant_id)
    return asdict(gateway.tenants.change(tenant_id, **changes))


@router.delete("/{tenant_id}", response_model=TenantOut)
async def delete_tenant(gateway: GatewayDep, caller: Admin, tenant_id: str) -> Json:
    """Delete a tenant with all it has: keys, jobs, receipts, uploads, inputs.

    Its open jobs are cancelled. The state is `deleted` once all is gone, `deleting`
    before; doing it again goes on.
    """
    _check_foreign(caller, tenant_id)
    return asdict(await gateway.deletions.delete(tenant_id))


def _check_foreign(caller: Caller, tenant_id: str) -> None:
    if tenant_id == caller.tenant:
        msg = (
            f"{tenant_id} is your own tenant: an operator's key of another has to do it"
        )
        raise ConflictError(msg, code="own-tenant")
