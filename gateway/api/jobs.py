# ruff: noqa: FAST003 - the job comes from a dependency, which takes the id
"""Jobs: submit, watch, fetch what came out, cancel."""

import asyncio
import re
from collections.abc import AsyncIterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from gateway.api.auth import GatewayDep, JobReader, JobWriter
from gateway.api.problems import problem_response
from gateway.api.schemas import JobIn, JobOut, JobsOut, Status
from gateway.jobs.hub import news
from gateway.jobs.intake import JobRequest
from gateway.node import Gateway
from gateway.store.jobs import Job
from privacy.encoding import Json
from privacy.errors import ConflictError, JobFailedError, NotFoundError

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_MAX_WAIT_S = 60
_BLOB_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "The bytes"}
}


async def _wait_s(
    prefer: Annotated[
        str | None,
        Header(max_length=200, description="`wait=N`: up to N (60) s for the end"),
    ] = None,
) -> int:
    """Return the seconds of `Prefer: wait=N`; other preferences are ignored."""
    found = re.search(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])", prefer or "")
    return min(int(found[1]), _MAX_WAIT_S) if found else 0


WaitS = Annotated[int, Depends(_wait_s)]


@router.post(
    "",
    response_model=JobOut,
    responses={
        200: {"description": "Finished within the wait"},
        202: {"model": JobOut, "description": "Accepted; see Location"},
    },
)
async def submit(
    gateway: GatewayDep,
    key: JobWriter,
    body: JobIn,
    request: Request,
    wait_s: WaitS,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JSONResponse:
    """Submit a job; with `Prefer: wait=N`, answer when it is done if that is sooner."""
    job = await gateway.service.submit(
        JobRequest(
            model=body.model,
            version=body.version,
            model_sha256=body.model_sha256,
            mode=body.mode,
            input_sha256=body.input,
            keys_sha256=body.keys,
            options=body.options,
            verify=body.verify,
        ),
        tenant=key.tenant,
        idempotency_key=idempotency_key,
        wait_s=wait_s,
    )
    headers = {"Location": f"{request.url.path}/{job.id}", **_applied(wait_s)}
    status = 200 if job.finished and wait_s else 202
    return JSONResponse(gateway.service.view(job), status, headers=headers)


@router.get("", response_model=JobsOut)
async def list_jobs(
    gateway: GatewayDep,
    key: JobReader,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    status: Annotated[Status | None, Query()] = None,
) -> Json:
    """Return the tenant's jobs, the newest first."""
    jobs = await asyncio.to_thread(
        gateway.jobs.newest, tenant=key.tenant, limit=limit, status=status
    )
    return {"jobs": [gateway.service.view(job) for job in jobs]}


@router.get("/{job_id}", response_model=JobOut)
async def get_job(
    gateway: GatewayDep, key: JobReader, job_id: str, wait_s: WaitS
) -> JSONResponse:
    """Return a job; with `Prefer: wait=N`, when it is done if that is sooner."""
    job = await gateway.service.get(job_id, tenant=key.tenant, wait_s=wait_s)
    return JSONResponse(gateway.service.view(job), headers=_applied(wait_s))


@router.delete("/{job_id}", response_model=JobOut)
async def cancel(gateway: GatewayDep, key: JobWriter, job_id: str) -> Json:
    """Cancel a job; a finished one stays as it is."""
    job = await gateway.service.cancel(job_id, tenant=key.tenant)
    return gateway.service.view(job)


async def _owned(gateway: GatewayDep, key: JobReader, job_id: str) -> Job:
    return await gateway.service.get(job_id, tenant=key.tenant)


async def _finished(job: Annotated[Job, Depends(_owned)]) -> Job:
    if not job.finished:
        msg = f"the job is {job.status}: wait until it has finished"
        raise ConflictError(msg, code="not-finished")
    return job


OwnedJob = Annotated[Job, Depends(_owned)]
FinishedJob = Annotated[Job, Depends(_finished)]


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def events(gateway: GatewayDep, job: OwnedJob) -> AsyncIterable[ServerSentEvent]:
    """Stream `status` and `progress` events; the stream ends with the job."""
    with gateway.service.hub.follow(job.id) as inbox:
        job = await gateway.service.get(job.id, tenant=job.tenant)
        yield _status_event(gateway, job)
        if job.finished:
            return
        async for word in news(inbox):
            if not isinstance(word, Job):
                yield ServerSentEvent(event="progress", data=word)
                continue
            if (word.status, word.attempts) != (job.status, job.attempts):
                yield _status_event(gateway, word)
            job = word
            if job.finished:
                return


@router.get("/{job_id}/result", responses=_BLOB_RESPONSE, response_class=FileResponse)
async def result(gateway: GatewayDep, job: FinishedJob) -> Response:
    """Return the output; a failed job answers with its problem."""
    return await _blob(gateway, job, job.output_sha256)


@router.delete("/{job_id}/result", status_code=204, response_class=Response)
async def delete_result(gateway: GatewayDep, key: JobWriter, job_id: str) -> Response:
    """Delete the output and the evidence; the job and its receipt stay."""
    job = await _finished(await gateway.service.get(job_id, tenant=key.tenant))
    await asyncio.to_thread(gateway.results.delete, job.id)
    return Response(status_code=204)


@router.get("/{job_id}/evidence", responses=_BLOB_RESPONSE, response_class=FileResponse)
async def evidence(gateway: GatewayDep, job: FinishedJob) -> Response:
    """Return the proofs or the attestation; a failed job answers with its problem."""
    if job.status == "succeeded" and not job.evidence_kind:
        msg = f"mode {job.mode} gives no evidence"
        raise NotFoundError(msg, code="no-evidence")
    return await _blob(gateway, job, job.evidence_sha256)


@router.get(
    "/{job_id}/receipt",
    responses={200: {"content": {"application/json": {}}, "description": "Receipt"}},
    response_class=Response,
)
async def receipt(gateway: GatewayDep, job: FinishedJob) -> Response:
    """Return the receipt file; every finished job has one, failed ones included."""
    raw = await asyncio.to_thread(gateway.jobs.receipt, job.id)
    return Response(raw, media_type="application/json")


@router.get(
    "/{job_id}/peer-receipt",
    responses={200: {"content": {"application/json": {}}, "description": "Receipt"}},
    response_class=Response,
)
async def peer_receipt(gateway: GatewayDep, job: FinishedJob) -> Response:
    """Return the receipt of the other operator's gateway that ran the job."""
    raw = await asyncio.to_thread(gateway.peers.receipt, job.id) if job.peer else None
    if raw is None:
        msg = "no other operator's gateway ran this job"
        raise NotFoundError(msg, code="no-peer-receipt")
    return Response(raw, media_type="application/json")


async def _blob(gateway: Gateway, job: Job, sha256: str) -> Response:
    if job.problem:
        return problem_response(job.problem)
    if job.status == "cancelled":
        raise JobFailedError("the job was cancelled", code="cancelled")
    if not sha256:
        raise _gone()
    headers = {"ETag": f'"{sha256}"'}
    kind = "application/octet-stream"
    try:
        small = await asyncio.to_thread(gateway.blobs.small, sha256)
        if small is not None:
            return Response(small, media_type=kind, headers=headers)
        path = await asyncio.to_thread(gateway.blobs.fetch, sha256)
    except NotFoundError:  # deleted just now
        raise _gone() from None
    return FileResponse(path, media_type=kind, headers=headers)


def _gone() -> NotFoundError:
    msg = "what the job gave was deleted, or kept for long enough: submit it again"
    return NotFoundError(msg, code="result-gone")


def _status_event(gateway: Gateway, job: Job) -> ServerSentEvent:
    return ServerSentEvent(event="status", data=gateway.service.view(job))


def _applied(wait_s: int) -> dict[str, str]:
    return {"Preference-Applied": f"wait={wait_s}"} if wait_s else {}
