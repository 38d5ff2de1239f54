"""Models: the list, exact manifests, and the files clients need."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import FileResponse, Response

from gateway.api.auth import GatewayDep, ModelReader
from gateway.api.schemas import ModelsOut, Name
from privacy.bundle import MANIFEST, SIGNATURE, Bundle
from privacy.encoding import Json, sha256_hex
from privacy.errors import NotFoundError, UnavailableError

router = APIRouter(prefix="/v1/models", tags=["models"])

_MANIFEST_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}}, "description": "Canonical manifest"},
    304: {"description": "The manifest of that ETag is current"},
}
_FILE_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "The file"}
}


@router.get("", response_model=ModelsOut)
def list_models(gateway: GatewayDep, _key: ModelReader) -> Json:
    """Return every version of every model, the newest first."""
    return {"models": [_entry(b) for b in gateway.registry.all()]}


@router.get("/{name}", responses=_MANIFEST_RESPONSE, response_class=Response)
def get_manifest(
    gateway: GatewayDep,
    _key: ModelReader,
    name: str,
    version: Annotated[Name | None, Query()] = None,
    if_none_match: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Return the exact bytes of a manifest; their SHA-256 is the model digest.

    The header `X-Model-Signature` holds the publisher's detached JWS over them.
    """
    bundle = gateway.registry.get(name, version)
    headers = {
        "ETag": f'"{bundle.sha256}"',
        "X-Model-Version": bundle.manifest.version,
        "Cache-Control": "no-cache",
    }
    if if_none_match == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    raw = (bundle.root / MANIFEST).read_bytes()
    if sha256_hex(raw) != bundle.sha256:
        msg = f"model {name} is being replaced: ask again"
        raise UnavailableError(msg, code="model-changing")
    if bundle.publisher:
        headers["X-Model-Signature"] = (bundle.root / SIGNATURE).read_text("ascii")
    return Response(raw, media_type="application/json", headers=headers)


@router.get(
    "/{name}/{version}/files/{path:path}",
    responses=_FILE_RESPONSE,
    response_class=FileResponse,
)
def get_file(
    gateway: GatewayDep, _key: ModelReader, name: str, version: str, path: str
) -> FileResponse:
    """Return a public file of a bundle; check it against the manifest's digest."""
    bundle = gateway.registry.get(name, version)
    entry = bundle.manifest.files.get(path)
    if entry is None or not entry.public:
        msg = f"model {name} {version} has no public file {path[:80]!r}"
        raise NotFoundError(msg, code="unknown-file")
    return FileResponse(
        bundle.path(path),
        media_type="application/octet-stream",
        headers={"ETag": f'"{entry.sha256}"'},
    )


def _entry(bundle: Bundle) -> Json:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "model_sha256": bundle.sha256,
        "publisher": bundle.publisher,
        "task": manifest.task,
        "published_at": manifest.published_at,
        "modes": {m: p.available or p.reason for m, p in manifest.modes.items()},
        "columns": len(manifest.columns),
    }
