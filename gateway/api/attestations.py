"""Evidence of a model's enclave, before anything is sealed to it."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from gateway.api.auth import GatewayDep, ModelReader
from gateway.api.schemas import Name
from privacy.encoding import b64url_decode
from privacy.errors import FormatError
from privacy.modes import Mode, parse_mode

router = APIRouter(tags=["attestations"])

_NONCE_BYTES = 32
_NONCE_PATTERN = "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$"


@router.get(
    "/v1/attestations",
    responses={200: {"content": {"application/json": {}}, "description": "Evidence"}},
    response_class=Response,
)
async def attest(
    gateway: GatewayDep,
    _key: ModelReader,
    model: Annotated[Name, Query()],
    nonce: Annotated[
        str,
        Query(
            description="base64url of 32 bytes",
            max_length=64,
            json_schema_extra={"pattern": _NONCE_PATTERN},
        ),
    ],
    version: Annotated[Name | None, Query()] = None,
    mode: Annotated[str, Query(max_length=20, examples=["tee", "tee+zkml"])] = "tee",
) -> Response:
    """Return fresh evidence for `nonce`; starts the model's enclave if need be."""
    chosen = parse_mode(mode)
    if Mode.TEE not in chosen.parts:
        msg = f"mode {chosen} has no enclave: ask for tee or tee+zkml"
        raise FormatError(msg, code="no-enclave")
    raw = b64url_decode(nonce, what="nonce")
    if len(raw) != _NONCE_BYTES:
        msg = f"the nonce has {len(raw)} bytes, expected {_NONCE_BYTES}"
        raise FormatError(msg, code="bad-nonce")
    bundle = await asyncio.to_thread(gateway.registry.get, model, version)
    bundle.manifest.mode(chosen)
    evidence = await gateway.scheduler.evidence(chosen, bundle, raw)
    await asyncio.to_thread(gateway.membership.keep_enclave, evidence)
    return Response(evidence, media_type="application/json")
