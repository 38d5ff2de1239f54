"""API keys: made, listed and revoked by an operator, or by their tenant's admin."""

from dataclasses import asdict

from fastapi import APIRouter, Response

from gateway.api.auth import GatewayDep, TenantAdmin
from gateway.api.schemas import ApiKeyIn, ApiKeysOut, NewApiKeyOut, RotationIn
from gateway.identity.caller import OF_OPERATOR, Caller
from gateway.node import Gateway
from gateway.store.api_keys import ApiKey, unknown_key
from gateway.store.tenants import ACTIVE, SUSPENDED
from privacy.encoding import Json
from privacy.errors import AuthError, ConflictError

router = APIRouter(prefix="/v1/api-keys", tags=["api keys"])


@router.post("", response_model=NewApiKeyOut, status_code=201)
def create_api_key(gateway: GatewayDep, caller: TenantAdmin, body: ApiKeyIn) -> Json:
    """Make an API key of the caller's tenant, or another; its text is shown once."""
    tenant = body.tenant or caller.tenant
    _check(caller, tenant, list(body.scopes))
    if gateway.tenants.get(tenant).state not in {ACTIVE, SUSPENDED}:
        msg = f"tenant {tenant} is deleted: take another name"
        raise ConflictError(msg, code="tenant-deleted")
    key, text = gateway.api_keys.create(
        tenant=tenant,
        scopes=list(body.scopes),
        name=body.name,
        expires_in_s=body.expires_in_s,
    )
    return {**asdict(key), "key": text}


@router.get("", response_model=ApiKeysOut)
def list_api_keys(gateway: GatewayDep, caller: TenantAdmin) -> Json:
    """Return the tenant's API keys, an operator's every tenant's; without texts."""
    keys = [k for k in gateway.api_keys.all() if _sees(caller, k)]
    return {"api_keys": [asdict(k) for k in keys]}


@router.post("/{key_id}/rotate", response_model=NewApiKeyOut)
def rotate_api_key(
    gateway: GatewayDep, caller: TenantAdmin, key_id: str, body: RotationIn
) -> Json:
    """Give an API key a new text; the old one works for `overlap_s` more."""
    key, text = gateway.api_keys.rotate(
        _managed(gateway, caller, key_id).id,
        overlap_s=body.overlap_s,
        expires_in_s=body.expires_in_s,
    )
    return {**asdict(key), "key": text}


@router.delete("/{key_id}", status_code=204, response_class=Response)
def revoke_api_key(gateway: GatewayDep, caller: TenantAdmin, key_id: str) -> Response:
    """Revoke an API key at once."""
    gateway.api_keys.revoke(_managed(gateway, caller, key_id).id)
    return Response(status_code=204)


def _sees(caller: Caller, key: ApiKey) -> bool:
    return caller.allows("admin") or key.tenant == caller.tenant


def _managed(gateway: Gateway, caller: Caller, key_id: str) -> ApiKey:
    """Return a key that the caller may change; one it cannot see does not exist."""
    key = gateway.api_keys.find(key_id)
    if not _sees(caller, key):
        raise unknown_key(key_id)
    _check(caller, key.tenant, key.scopes)
    return key


def _check(caller: Caller, tenant: str, scopes: list[str]) -> None:
    if not caller.may_manage(tenant, scopes):
        msg = (
            "this needs the scope admin: the key is another tenant's, or reaches past "
            f"its tenant ({', '.join(OF_OPERATOR)})"
        )
        raise AuthError(msg, code="missing-scope")
