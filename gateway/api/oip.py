# ruff: noqa: FAST003 - the model is taken by a dependency
"""The Open Inference Protocol (`/v2`), for clients that know no other, if enabled.

Mode zkml only: its node reads inputs in the clear anyway, so here the gateway may put
the job together, and the answer names the proof and the receipt for who wants to check
them. For the other modes the gateway would have to encrypt or seal the input itself,
and the caller would be told that nobody saw what the gateway just did.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from gateway.api.auth import GatewayDep, JobWriter, ModelReader, count_stranger
from gateway.api.problems import ANY_ROUTE, problem_headers
from gateway.identity.caller import Caller
from gateway.jobs.intake import JobRequest
from gateway.node import Gateway
from gateway.problems import MEDIA_TYPE, problem_of
from gateway.store.jobs import Job
from gateway.store.parts import Owner
from gateway.tensors import NUMBERS, Asked, Output, make_answer, parse_request
from privacy import __version__
from privacy.bundle import Bundle
from privacy.encoding import (
    Json,
    b64url,
    canonical_json,
    parse_canonical,
    sha256_hex,
)
from privacy.errors import (
    FormatError,
    JobFailedError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
    error_from,
)
from privacy.modes import Mode

_WAIT_S = 60.0
_BAD_REQUEST, _UNPROCESSABLE = 400, 422
_INPUT = "input"
_JSON_BYTES = "Inference-Header-Content-Length"


class _OipRoute(APIRoute):
    """Errors in the protocol's own form, `{"error": "…"}`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, whose errors are put into that form."""
        handle = super().get_route_handler()

        async def handle_in_form(request: Request) -> Response:
            try:
                return await handle(request)
            except PrivacyError as exc:
                problem = problem_of(exc)
                text = f"{exc.code}: {problem['detail']}"
                return _error(problem["status"], text, problem_headers(problem))
            except RequestValidationError:
                return _error(_BAD_REQUEST, "invalid-request: see the protocol")
            except HTTPException as exc:
                return _error(exc.status_code, exc.detail)

        return handle_in_form


def _error(
    status: int, text: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    if status == _UNPROCESSABLE:
        status = _BAD_REQUEST
    return JSONResponse({"error": text}, status, headers=headers)


async def _enabled(gateway: GatewayDep) -> None:
    if not gateway.settings.oip:
        msg = "this gateway does not serve the Open Inference Protocol (setting oip)"
        raise NotFoundError(msg, code="oip-off")


_FORMS = {"schema": {"type": "object"}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {"application/json": _FORMS, MEDIA_TYPE: _FORMS},
    }
    for status in (400, *ANY_ROUTE)
}
"""Errors in the protocol's form; what is refused before a route is a problem."""

router = APIRouter(
    prefix="/v2",
    tags=["open inference protocol"],
    route_class=_OipRoute,
    dependencies=[Depends(_enabled)],
    responses=_RESPONSES,
)

_OPEN = [Depends(count_stranger)]
Text = Annotated[str, InPath(max_length=200)]
_INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


@router.get("", dependencies=_OPEN)
async def server() -> Json:
    """Return what serves here."""
    return {
        "name": "privacy-compute",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }


@router.get("/health/live", dependencies=_OPEN)
async def live() -> Json:
    """Say that the process is alive."""
    return {"live": True}


@router.get("/health/ready", dependencies=_OPEN)
async def ready(gateway: GatewayDep) -> Json:
    """Say whether jobs are taken."""
    if not gateway.ready:
        raise UnavailableError("the gateway is starting or stopping: try again soon")
    return {"ready": True}


async def _model(
    gateway: GatewayDep, _key: ModelReader, name: Text, version: Text | None = None
) -> Bundle:
    bundle = await asyncio.to_thread(gateway.registry.get, name, version)
    bundle.manifest.mode(Mode.ZKML)
    return bundle


# Not a parameter of a route without a version: it would be taken from the query.
async def _newest(gateway: GatewayDep, key: ModelReader, name: Text) -> Bundle:
    return await _model(gateway, key, name)


async def _of_version(
    gateway: GatewayDep, key: ModelReader, name: Text, version: Text
) -> Bundle:
    return await _model(gateway, key, name, version)


Newest = Annotated[Bundle, Depends(_newest)]
OfVersion = Annotated[Bundle, Depends(_of_version)]
JsonBytes = Annotated[int | None, Header(alias=_JSON_BYTES, ge=0)]


@router.get("/models/{name}")
async def describe_newest(bundle: Newest) -> Json:
    """Return the tensors of a model's newest version."""
    return _metadata(bundle)


@router.get("/models/{name}/versions/{version}")
async def describe(bundle: OfVersion) -> Json:
    """Return the tensors of a model."""
    return _metadata(bundle)


@router.get("/models/{name}/ready")
async def newest_is_ready(bundle: Newest) -> Json:
    """Say that a model can be asked."""
    return {"name": bundle.manifest.name, "ready": True}


@router.get("/models/{name}/versions/{version}/ready")
async def is_ready(bundle: OfVersion) -> Json:
    """Say that a model can be asked."""
    return {"name": bundle.manifest.name, "ready": True}


@router.post("/models/{name}/infer", openapi_extra=_INFER_BODY)
async def infer_newest(
    gateway: GatewayDep,
    key: JobWriter,
    bundle: Newest,
    request: Request,
    json_bytes: JsonBytes = None,
) -> Response:
    """Run the newest version of a model and return its outputs; proven, not checked."""
    return await _infer(gateway, key, bundle, request, json_bytes)


@router.post("/models/{name}/versions/{version}/infer", openapi_extra=_INFER_BODY)
async def infer(
    gateway: GatewayDep,
    key: JobWriter,
    bundle: OfVersion,
    request: Request,
    json_bytes: JsonBytes = None,
) -> Response:
    """Run a model and return its outputs; proven, not checked."""
    return await _infer(gateway, key, bundle, request, json_bytes)


def _metadata(bundle: Bundle) -> Json:
    manifest = bundle.manifest
    outputs = [{"name": "output", "datatype": "FP64", "shape": [-1, manifest.outputs]}]
    if manifest.classes:
        outputs.append({"name": "label", "datatype": "BYTES", "shape": [-1]})
    shape = [-1, len(manifest.columns)]
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": "privacy-compute-zkml",
        "inputs": [{"name": _INPUT, "datatype": "FP64", "shape": shape}],
        "outputs": outputs,
        "parameters": {
            "model_sha256": bundle.sha256,
            "columns": ",".join(c.name for c in manifest.columns),
            "datatypes": ",".join(NUMBERS),
        },
    }


async def _infer(
    gateway: Gateway,
    key: Caller,
    bundle: Bundle,
    request: Request,
    json_bytes: int | None,
) -> Response:
    asked = parse_request(await request.body(), json_bytes, name=_INPUT)
    salt = os.urandom(32)
    blob = _input(bundle, asked, salt)
    owner = Owner(key.tenant, "blob", sha256_hex(blob))
    await _upload(gateway, owner, blob)
    manifest = bundle.manifest
    job = await gateway.service.submit(
        JobRequest(
            model=manifest.name,
            version=manifest.version,
            model_sha256=bundle.sha256,
            mode=Mode.ZKML,
            input_sha256=owner.sha256,
            options={},
        ),
        tenant=key.tenant,
        idempotency_key=None,
        wait_s=_WAIT_S,
    )
    outputs = await asyncio.to_thread(_outputs, gateway, bundle, _succeeded(job))
    head: Json = {
        "model_name": manifest.name,
        "model_version": manifest.version,
        "parameters": _references(job, salt),
    }
    if asked.request_id:
        head["id"] = asked.request_id
    body, size = make_answer(asked, outputs, head)
    if size == len(body):
        return Response(body, media_type="application/json")
    headers = {_JSON_BYTES: str(size)}
    return Response(body, media_type="application/octet-stream", headers=headers)


def _input(bundle: Bundle, asked: Asked, salt: bytes) -> bytes:
    """Return the input blob: rows standardised as the data owner's client does it."""
    columns = bundle.manifest.columns
    if len(asked.rows[0]) != len(columns):
        msg = f"rows have {len(asked.rows[0])} columns, the model has {len(columns)}"
        raise FormatError(msg, code="wrong-feature-count")
    rows = [
        [(v - c.offset) / c.scale for v, c in zip(row, columns, strict=True)]
        for row in asked.rows
    ]
    return canonical_json({"rows": rows, "salt": b64url(salt)})


async def _upload(gateway: Gateway, owner: Owner, blob: bytes) -> None:
    async def once() -> AsyncIterator[bytes]:
        yield blob

    part, _ = await gateway.uploads.parts.receive(
        once(),
        owner=owner,
        room=await asyncio.to_thread(gateway.uploads.room, owner),
        announced_bytes=len(blob),
    )
    await asyncio.to_thread(gateway.uploads.own, part, owner)


def _succeeded(job: Job) -> Job:
    if not job.finished:
        msg = f"job {job.id} still runs after {_WAIT_S:g} s: GET /v1/jobs/{job.id}"
        raise UnavailableError(msg, code="still-running")
    if job.problem:
        problem = job.problem
        raise error_from(problem["family"], problem["code"], problem["detail"])
    if job.status != "succeeded":
        raise JobFailedError("the job was cancelled", code="cancelled")
    return job


def _outputs(gateway: Gateway, bundle: Bundle, job: Job) -> list[Output]:
    """Return the tensors of a finished job."""
    from privacy.client.answer import answer_rows  # brings NumPy

    raw = gateway.blobs.fetch(job.output_sha256).read_bytes()
    rows = parse_canonical(raw, what="output")["outputs"]
    flat = [value for row in rows for value in row]
    found = [Output("output", "FP64", (len(rows), bundle.manifest.outputs), flat)]
    if bundle.manifest.classes:
        labels = [row.label for row in answer_rows(bundle.manifest, rows)]
        found.append(Output("label", "BYTES", (len(rows),), labels))
    return found


def _references(job: Job, salt: bytes) -> Json:
    """Return what it takes to check the answer: digests, and where its proof is.

    With the salt, the input blob can be made again and its digest compared.
    """
    here = f"/v1/jobs/{job.id}"
    return {
        "job_id": job.id,
        "mode": job.mode,
        "receipt": f"{here}/receipt",
        "evidence": f"{here}/evidence",
        "model_sha256": job.model_sha256,
        "input_sha256": job.input_sha256,
        "input_salt": b64url(salt),
        "output_sha256": job.output_sha256,
        "evidence_sha256": job.evidence_sha256,
        "verified": False,
    }
