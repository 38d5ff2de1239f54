"""Uploads: inputs and evaluation keys, named by their SHA-256.

An upload that broke off is gone on with, after the IETF's draft "Resumable Uploads for
HTTP": HEAD tells how much is here (`Upload-Offset`), PATCH sends the rest. The address
is the digest of the whole, so there is nothing else to agree on.
"""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi import Path as InPath

from gateway.api.auth import GatewayDep, JobReader, JobWriter
from gateway.api.schemas import BlobOut, UploadsOut
from gateway.node import Gateway
from gateway.store.parts import Owner
from privacy.encoding import Json
from privacy.errors import NotFoundError

router = APIRouter(tags=["uploads"])

Digest = Annotated[str, InPath(pattern="^[0-9a-f]{64}$")]
Keyset = Annotated[
    str,
    Query(
        pattern="^([0-9a-f]{64})?$",
        description="Of evaluation keys: digest of the key set they belong to. A job "
        "whose model has another one is refused.",
    ),
]
Offset = Annotated[
    int, Header(alias="Upload-Offset", ge=0, description="Bytes that are here already.")
]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
}
_PARTIAL: dict[int | str, dict[str, Any]] = {
    204: {"description": "Broken off; `Upload-Offset` bytes are here"}
}


def _add_routes(path: str, kind: str, what: str) -> None:
    """Serve uploads of one kind."""

    @router.put(
        path + "/{sha256}",
        response_model=BlobOut,
        responses={201: {"model": BlobOut, "description": "New"}},
        openapi_extra=_BODY,
        summary=f"Upload {what}: 201 if new, 200 if known",
    )
    async def put(
        gateway: GatewayDep,
        key: JobWriter,
        sha256: Digest,
        request: Request,
        response: Response,
        keyset: Keyset = "",
    ) -> Json:
        owner = Owner(key.tenant, kind, sha256)
        return await _receive(gateway, owner, request, response, keyset=keyset)

    @router.patch(
        path + "/{sha256}",
        response_model=BlobOut,
        responses={201: {"model": BlobOut, "description": "New"}},
        openapi_extra=_BODY,
        summary=f"Upload the rest of {what} whose upload broke off",
    )
    async def patch(
        gateway: GatewayDep,
        key: JobWriter,
        sha256: Digest,
        request: Request,
        response: Response,
        offset: Offset,
        keyset: Keyset = "",
    ) -> Json:
        owner = Owner(key.tenant, kind, sha256)
        return await _receive(
            gateway, owner, request, response, offset=offset, keyset=keyset
        )

    @router.head(
        path + "/{sha256}",
        response_class=Response,
        responses=_PARTIAL,
        summary=f"Whether this tenant uploaded {what}: 200, 204 for a part, 404",
    )
    async def head(gateway: GatewayDep, key: JobWriter, sha256: Digest) -> Response:
        owner = Owner(key.tenant, kind, sha256)
        await gateway.uploads.parts.settle(owner)
        return await asyncio.to_thread(_head, gateway, owner)

    @router.delete(
        path + "/{sha256}",
        status_code=204,
        response_class=Response,
        summary=f"Delete {what}; 409 while an unfinished job needs it",
    )
    def delete(gateway: GatewayDep, key: JobWriter, sha256: Digest) -> Response:
        gateway.uploads.delete(Owner(key.tenant, kind, sha256))
        return Response(status_code=204)

    @router.get(
        path,
        response_model=UploadsOut,
        summary=f"The tenant's uploads of {what}, the newest first, and its quota",
    )
    def list_uploads(gateway: GatewayDep, key: JobReader) -> Json:
        uploads = gateway.uploads
        return {
            "uploads": [
                {**asdict(u), "expires_at": uploads.expires_at(u)}
                for u in uploads.of(key.tenant, kind)
            ],
            "used_bytes": uploads.used_bytes(key.tenant),
            "quota_bytes": uploads.quota_bytes(key.tenant),
        }


_add_routes("/v1/blobs", "blob", "an input")
_add_routes("/v1/keys", "keys", "evaluation keys")


def _head(gateway: Gateway, owner: Owner) -> Response:
    try:
        size = gateway.uploads.get(owner).bytes
    except NotFoundError:
        if not (offset := gateway.uploads.parts.offset(owner)):
            raise
        headers = {"Upload-Offset": str(offset), "Upload-Complete": "?0"}
        return Response(status_code=204, headers=headers)
    return Response(headers={"X-Blob-Bytes": str(size), "Upload-Complete": "?1"})


async def _receive(
    gateway: Gateway,
    owner: Owner,
    request: Request,
    response: Response,
    *,
    keyset: str,
    offset: int = 0,
) -> Json:
    uploads = gateway.uploads
    part, size = await uploads.parts.receive(
        request.stream(),
        owner=owner,
        room=await asyncio.to_thread(uploads.room, owner),
        offset=offset,
        announced_bytes=int(request.headers.get("content-length", 0)),
    )
    is_new = await asyncio.to_thread(uploads.own, part, owner, keyset_sha256=keyset)
    response.status_code = 201 if is_new else 200
    return {"sha256": owner.sha256, "bytes": size}
