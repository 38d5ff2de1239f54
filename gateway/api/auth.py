"""Who asks, and what they may: API keys as bearer tokens, with scopes."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import (
    HTTPAuthorizationCredentials,
    HTTPBearer,
    SecurityScopes,
)

from gateway.audit_trail import admit
from gateway.node import Gateway
from gateway.store.api_keys import ApiKey
from privacy.errors import AuthError

_bearer = HTTPBearer(
    scheme_name="api_key", bearerFormat="pk_…", auto_error=False, description="API key"
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
) -> ApiKey:
    """Return the caller's key if it has every scope the route asks for."""
    if credentials is None:
        msg = "no API key: send the header Authorization: Bearer pk_…"
        raise AuthError(msg)
    key = gateway.api_keys.authenticate(credentials.credentials)
    request.state.key_id = key.id
    for scope in scopes.scopes:
        if not key.allows(scope):
            msg = f"this API key has no scope {scope}: ask for a key that has it"
            raise AuthError(msg, code="missing-scope")
    await admit(request, gateway, actor=key.id, tenant=key.tenant, scopes=scopes.scopes)
    return key


ModelReader = Annotated[ApiKey, Security(_authenticate, scopes=["models:read"])]
JobReader = Annotated[ApiKey, Security(_authenticate, scopes=["jobs:read"])]
JobWriter = Annotated[ApiKey, Security(_authenticate, scopes=["jobs:write"])]
Admin = Annotated[ApiKey, Security(_authenticate, scopes=["admin"])]
