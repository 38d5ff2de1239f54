"""API keys: made, listed and revoked by an admin."""

from dataclasses import asdict

from fastapi import APIRouter, Response

from gateway.api.auth import Admin, GatewayDep
from gateway.api.schemas import ApiKeyIn, ApiKeysOut, NewApiKeyOut
from privacy.encoding import Json

router = APIRouter(prefix="/v1/api-keys", tags=["api keys"])


@router.post("", response_model=NewApiKeyOut, status_code=201)
def create_api_key(gateway: GatewayDep, _key: Admin, body: ApiKeyIn) -> Json:
    """Make an API key; its text is in this answer only."""
    key, text = gateway.api_keys.create(
        tenant=body.tenant,
        scopes=list(body.scopes),
        name=body.name,
        expires_in_s=body.expires_in_s,
    )
    return {**asdict(key), "key": text}


@router.get("", response_model=ApiKeysOut)
def list_api_keys(gateway: GatewayDep, _key: Admin) -> Json:
    """Return every API key, without texts."""
    return {"api_keys": [asdict(k) for k in gateway.api_keys.all()]}


@router.delete("/{key_id}", status_code=204, response_class=Response)
def revoke_api_key(gateway: GatewayDep, _key: Admin, key_id: str) -> Response:
    """Revoke an API key at once."""
    gateway.api_keys.revoke(key_id)
    return Response(status_code=204)
