# ruff: noqa: FAST003 - the commitment is taken by a dependency
"""Inputs for contracts, by the commitment that a request on chain names.

One in the clear is taken only if it is the input of its commitment. One that is sealed
cannot be looked into: the enclave compares, when it opens it.
"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as InPath

from gateway.api.auth import GatewayDep, JobReader, JobWriter
from gateway.api.schemas import Name as ModelName
from gateway.node import Gateway
from gateway.store.arrival import Arrival
from gateway.store.contract_inputs import MAX_BYTES, Name
from privacy.bundle import Bundle
from privacy.chain.inputs import check_input
from privacy.errors import FormatError
from privacy.modes import Mode
from privacy.tee.seal import parse_sealed

router = APIRouter(prefix="/v1/contract-inputs", tags=["contracts"])

_PATIENCE_S = 60.0

Commitment = Annotated[
    str, InPath(pattern="^[0-9a-f]{64}$", description="As the request names the input.")
]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
}


async def _named(
    gateway: GatewayDep,
    commitment: Commitment,
    model: Annotated[ModelName, Query()],
    version: Annotated[ModelName | None, Query()] = None,
    *,
    sealed: Annotated[bool, Query(description="To the model's enclave.")] = False,
) -> tuple[Bundle, Name]:
    bundle = await asyncio.to_thread(gateway.registry.get, model, version)
    return bundle, Name(bundle.sha256, commitment, sealed)


Named = Annotated[tuple[Bundle, Name], Depends(_named)]


@router.put(
    "/{commitment}",
    status_code=201,
    response_class=Response,
    responses={200: {"description": "Replaced this tenant's own"}},
    openapi_extra=_BODY,
)
async def put(
    gateway: GatewayDep, key: JobWriter, named: Named, request: Request
) -> Response:
    """Hand an input over, in the clear (one row and a salt) or sealed."""
    bundle, name = named
    body = await _read(request)
    is_new = await asyncio.to_thread(_keep, gateway, key.tenant, bundle, name, body)
    return Response(status_code=201 if is_new else 200)


@router.get(
    "/{commitment}",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
async def get(gateway: GatewayDep, key: JobReader, named: Named) -> Response:
    """Return an input: the caller's own, or anybody's for a key with inputs:read."""
    tenant = "" if key.allows("inputs:read") else key.tenant
    body = await asyncio.to_thread(gateway.contract_inputs.get, named[1], tenant=tenant)
    return Response(body, media_type="application/octet-stream")


@router.delete("/{commitment}", status_code=204, response_class=Response)
async def delete(gateway: GatewayDep, key: JobWriter, named: Named) -> Response:
    """Delete the caller's own input."""
    await asyncio.to_thread(gateway.contract_inputs.delete, key.tenant, named[1])
    return Response(status_code=204)


async def _read(request: Request) -> bytes:
    arrival, body = Arrival(request.stream(), patience_s=_PATIENCE_S), bytearray()
    while part := await arrival.next():
        body += part
        if len(body) > MAX_BYTES:
            msg = f"an input for a contract has at most {MAX_BYTES} bytes"
            raise FormatError(msg, code="too-large")
    return bytes(body)


def _keep(
    gateway: Gateway, tenant: str, bundle: Bundle, name: Name, body: bytes
) -> bool:
    if name.is_sealed:
        bundle.manifest.mode(Mode.TEE)
        if parse_sealed(body).order:
            msg = "a sealed input has three parts: the order is added by the watcher"
            raise FormatError(msg)
    else:
        check_input(bundle, body, bytes.fromhex(name.commitment))
    return gateway.contract_inputs.put(tenant, name, body)
