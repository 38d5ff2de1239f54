"""Who asks, and what they may: API keys or issuers' tokens, with scopes."""

import asyncio
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import (
    HTTPAuthorizationCredentials,
    HTTPBearer,
    SecurityScopes,
)

from gateway.api.limits import address_of, check_rate
from gateway.audit_trail import admit
from gateway.identity.caller import Caller
from gateway.node import Gateway
from gateway.store.api_keys import PREFIX
from gateway.store.tenants import Tenant
from privacy.errors import AuthError, NotFoundError

_bearer = HTTPBearer(
    scheme_name="api_key",
    bearerFormat="pk_…",
    auto_error=False,
    description="API key or token",
)


async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(_gateway)]


async def _authenticate(
    request: Request,
    scopes: SecurityScopes,
    gateway: GatewayDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """Return the caller if it has every scope the route asks for."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:  # else another of the route's dependencies asked before
        caller, tenant = await _known(request, gateway, credentials)
        request.state.caller, request.state.key_id = caller, caller.id
        request.state.rate = await gateway.rates.of_tenant(
            tenant.id, request.method, tenant.rates
        )
        check_rate(request.state.rate)
    for scope in scopes.scopes:
        if not caller.allows(scope):
            msg = f"this API key or token has no scope {scope}: ask for one that has it"
            raise AuthError(msg, code="missing-scope")
    await admit(request, gateway, caller, scopes.scopes)
    return caller


async def count_stranger(request: Request, gateway: GatewayDep) -> None:
    """Count a request by its address, whatever header it came with.

    Raises:
        LimitError: It is one too many.
    """
    if "authorization" in request.headers:  # without one it was counted before
        address = address_of(request.scope)
        request.state.rate = await gateway.rates.of_stranger(address)
        check_rate(request.state.rate)


async def _known(
    request: Request,
    gateway: Gateway,
    credentials: HTTPAuthorizationCredentials | None,
) -> tuple[Caller, Tenant]:
    """Return caller and tenant; a wrong key counts against where it comes from."""
    try:
        caller = await _caller(request, gateway, credentials)
        return caller, await _tenant(gateway, caller)
    except AuthError:
        await count_stranger(request, gateway)
        raise


async def _caller(
    request: Request,
    gateway: Gateway,
    credentials: HTTPAuthorizationCredentials | None,
) -> Caller:
    if credentials is None:
        msg = "no API key: send the header Authorization: Bearer pk_…"
        raise AuthError(msg)
    if len(request.headers.getlist("authorization")) > 1:
        raise AuthError("there are two Authorization headers: send one")
    text = credentials.credentials
    if gateway.tokens and not text.startswith(PREFIX):
        return await gateway.tokens.caller(text)
    key = gateway.api_keys.recent(text)
    if key is None:
        key = await asyncio.to_thread(gateway.api_keys.authenticate, text)
    return Caller(key.id, key.tenant, frozenset(key.scopes))


async def _tenant(gateway: Gateway, caller: Caller) -> Tenant:
    """Return the caller's tenant, which has to be active."""
    found = gateway.tenants.recent(caller.tenant)
    try:
        if found is None:
            found = await asyncio.to_thread(gateway.tenants.get, caller.tenant)
    except NotFoundError:
        msg = f"there is no tenant {caller.tenant} at this gateway: ask the operator"
        raise AuthError(msg, code="no-tenant") from None
    found.check()
    return found


ModelReader = Annotated[Caller, Security(_authenticate, scopes=["models:read"])]
JobReader = Annotated[Caller, Security(_authenticate, scopes=["jobs:read"])]
JobWriter = Annotated[Caller, Security(_authenticate, scopes=["jobs:write"])]
MetricsReader = Annotated[Caller, Security(_authenticate, scopes=["metrics:read"])]
TenantAdmin = Annotated[Caller, Security(_authenticate, scopes=["tenant:admin"])]
Admin = Annotated[Caller, Security(_authenticate, scopes=["admin"])]
