"""What a job will take, before it is sent."""

import asyncio

from fastapi import APIRouter

from gateway.api.auth import GatewayDep, ModelReader
from gateway.api.schemas import EstimateIn, EstimatesOut
from gateway.jobs.estimator import Estimator
from gateway.node import Gateway
from privacy.encoding import Json
from privacy.modes import Mode, parse_mode

router = APIRouter(tags=["estimates"])


def _places(gateway: Gateway) -> dict[Mode, int]:
    """Return how many jobs of each mode run at once, on all nodes."""
    nodes = gateway.scheduler.nodes().values()
    return {mode: max(1, sum(n.places(mode) for n in nodes)) for mode in Mode}


@router.post("/v1/estimates", response_model=EstimatesOut)
async def estimate(gateway: GatewayDep, key: ModelReader, body: EstimateIn) -> Json:
    """Return what a job of so many rows will take in each mode, and on what basis."""
    modes = [parse_mode(m) for m in body.modes] if body.modes else list(Mode)
    estimator = Estimator(
        registry=gateway.registry,
        measures=gateway.measures,
        uploads=gateway.uploads,
        jobs=gateway.jobs,
        places=_places(gateway),
        simulated_enclaves=gateway.simulated_enclaves,
    )
    return await asyncio.to_thread(
        estimator.estimate,
        body.model,
        body.version,
        modes,
        rows=body.rows,
        tenant=key.tenant,
    )
