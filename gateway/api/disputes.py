"""Second looks at jobs: what was compared, what is disputed, and who decides."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response

from gateway.api.auth import Admin, GatewayDep, JobReader, JobWriter
from gateway.api.schemas import (
    MAX_NODE_NAME,
    ComparisonOut,
    ComparisonsOut,
    DisputeOut,
    DisputesOut,
    NodeStateOut,
    QuarantineIn,
    ReportIn,
    ResolutionIn,
)
from gateway.node import Gateway
from gateway.quality.verdicts import Report
from gateway.store.comparisons import Comparison
from gateway.store.disputes import Dispute
from privacy.encoding import Json
from privacy.errors import NotFoundError

router = APIRouter(tags=["disputes"])

NodeName = Annotated[str, Path(min_length=1, max_length=MAX_NODE_NAME)]
_State = Literal[
    "planned", "running", "compare", "agreed", "checked", "disputed", "impossible"
]


@router.get("/v1/comparisons", response_model=ComparisonsOut)
async def list_comparisons(
    gateway: GatewayDep,
    key: JobReader,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    state: Annotated[_State | None, Query()] = None,
) -> Json:
    """Return the tenant's jobs that are looked at twice, the newest first."""

    def found() -> list[Json]:
        of_tenant = gateway.comparisons.of_tenant(key.tenant, state=state, limit=limit)
        return [_comparison(gateway, one) for one in of_tenant]

    return {"comparisons": await asyncio.to_thread(found)}


@router.get("/v1/jobs/{job_id}/comparison", response_model=ComparisonOut)
async def get_comparison(gateway: GatewayDep, key: JobReader, job_id: str) -> Json:
    """Return what became of looking at a job twice."""

    def found() -> Json:
        return _comparison(gateway, gateway.comparisons.get(job_id, tenant=key.tenant))

    return await asyncio.to_thread(found)


@router.post("/v1/jobs/{job_id}/comparison", response_model=ComparisonOut)
async def report(
    gateway: GatewayDep, key: JobWriter, job_id: str, body: ReportIn
) -> Json:
    """Report whether the decrypted answers of a job's runs agree."""
    told = Report(
        groups=tuple(tuple(group) for group in body.groups),
        digests=body.digests,
        rows=body.rows,
        differing_rows=body.differing_rows,
    )
    found, begun = await asyncio.to_thread(
        gateway.quality.report, job_id, told, tenant=key.tenant, by=key.id
    )
    for another in begun:
        gateway.service.begin(another)
    gateway.scheduler.changed()
    return await asyncio.to_thread(_comparison, gateway, found)


@router.get("/v1/disputes", response_model=DisputesOut)
async def list_disputes(
    gateway: GatewayDep,
    key: JobReader,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    state: Annotated[Literal["open", "decided", "resolved"] | None, Query()] = None,
) -> Json:
    """Return the tenant's disputes, every tenant's to an operator, the newest first."""
    tenant = None if key.allows("admin") else key.tenant
    found = await asyncio.to_thread(
        gateway.disputes.newest, tenant=tenant, state=state, limit=limit
    )
    return {"disputes": [_dispute(one) for one in found]}


@router.get("/v1/disputes/{dispute_id}", response_model=DisputeOut)
async def get_dispute(gateway: GatewayDep, key: JobReader, dispute_id: str) -> Json:
    """Return a dispute with the receipts of its runs."""
    tenant = None if key.allows("admin") else key.tenant
    found = await asyncio.to_thread(gateway.disputes.get, dispute_id, tenant=tenant)
    return _dispute(found)


@router.post("/v1/disputes/{dispute_id}/resolution", response_model=DisputeOut)
async def resolve(
    gateway: GatewayDep, key: Admin, dispute_id: str, body: ResolutionIn
) -> Json:
    """Close a dispute: a node at fault is quarantined, and what was pinned may go."""
    closed = await asyncio.to_thread(
        gateway.quality.resolve,
        dispute_id,
        at_fault=body.at_fault,
        note=body.note,
        by=key.id,
    )
    gateway.scheduler.changed()
    return _dispute(closed)


@router.put("/v1/nodes/{node}/quarantine", response_model=NodeStateOut)
async def quarantine(
    gateway: GatewayDep, _key: Admin, node: NodeName, body: QuarantineIn
) -> Json:
    """Give a node no more jobs, on any gateway; those that run there go on."""
    states = gateway.node_states
    if node not in gateway.scheduler.nodes():
        raise NotFoundError(f"there is no node {node}", code="unknown-node")
    await asyncio.to_thread(states.quarantine, node, body.why)
    return asdict(states.all()[node])


@router.delete("/v1/nodes/{node}/quarantine", status_code=204, response_class=Response)
async def release(gateway: GatewayDep, _key: Admin, node: NodeName) -> Response:
    """Trust a node again, whatever was held against it."""
    if not await asyncio.to_thread(gateway.node_states.release, node):
        msg = f"nothing is held against a node {node}"
        raise NotFoundError(msg, code="unknown-node")
    gateway.scheduler.changed()
    return Response(status_code=204)


def _comparison(gateway: Gateway, found: Comparison) -> Json:
    nodes = gateway.quality.nodes_of(found.job_ids)
    return {
        **asdict(found),
        "dispute_id": found.dispute_id or None,
        "runs": [{"job_id": i, "node": nodes.get(i, "")} for i in found.job_ids],
    }


def _dispute(found: Dispute) -> Json:
    return {**asdict(found), "resolved_at": found.resolved_at or None}
