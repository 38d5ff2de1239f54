"""Uploads: inputs and evaluation keys, named by their SHA-256."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath

from gateway.api.auth import GatewayDep, JobWriter
from gateway.api.schemas import BlobOut
from gateway.node import Gateway
from privacy.encoding import Json

router = APIRouter(tags=["blobs"])

Digest = Annotated[str, InPath(pattern="^[0-9a-f]{64}$")]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
}


@router.put(
    "/v1/blobs/{sha256}",
    response_model=BlobOut,
    responses={201: {"model": BlobOut, "description": "New"}},
    openapi_extra=_BODY,
)
async def put_blob(
    gateway: GatewayDep,
    key: JobWriter,
    sha256: Digest,
    request: Request,
    response: Response,
) -> Json:
    """Upload an input: 201 if it is new, 200 if it was here."""
    return await _receive(gateway, key.tenant, "blob", sha256, request, response)


@router.head("/v1/blobs/{sha256}", response_class=Response)
def head_blob(gateway: GatewayDep, key: JobWriter, sha256: Digest) -> Response:
    """Say whether an input was uploaded by this tenant."""
    return _size(gateway, key.tenant, "blob", sha256)


@router.put(
    "/v1/keys/{sha256}",
    response_model=BlobOut,
    responses={201: {"model": BlobOut, "description": "New"}},
    openapi_extra=_BODY,
)
async def put_keys(
    gateway: GatewayDep,
    key: JobWriter,
    sha256: Digest,
    request: Request,
    response: Response,
) -> Json:
    """Upload evaluation keys: 201 if they are new, 200 if they were here."""
    return await _receive(gateway, key.tenant, "keys", sha256, request, response)


@router.head("/v1/keys/{sha256}", response_class=Response)
def head_keys(gateway: GatewayDep, key: JobWriter, sha256: Digest) -> Response:
    """Say whether evaluation keys were uploaded by this tenant."""
    return _size(gateway, key.tenant, "keys", sha256)


def _size(gateway: Gateway, tenant: str, kind: str, sha256: str) -> Response:
    size = gateway.blobs.size(tenant=tenant, kind=kind, sha256=sha256)
    return Response(headers={"X-Blob-Bytes": str(size)})


async def _receive(
    gateway: Gateway,
    tenant: str,
    kind: str,
    sha256: str,
    request: Request,
    response: Response,
) -> Json:
    part, size = await gateway.blobs.receive(
        request.stream(),
        sha256=sha256,
        max_bytes=gateway.settings.max_upload_bytes,
        announced_bytes=int(request.headers.get("content-length", 0)),
    )
    is_new = await asyncio.to_thread(
        gateway.blobs.own, part, tenant=tenant, kind=kind, sha256=sha256
    )
    response.status_code = 201 if is_new else 200
    return {"sha256": sha256, "bytes": size}
