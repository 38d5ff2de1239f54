"""What anyone may ask: health, the modes' contract, the receipt key."""

import asyncio

from fastapi import APIRouter, Depends

from gateway.api.auth import GatewayDep, count_stranger
from gateway.api.schemas import HealthOut, JwksOut, ReadyOut
from gateway.readiness import check_ready
from privacy.encoding import Json
from privacy.modes import modes_table

router = APIRouter(tags=["open"])


@router.get("/healthz", response_model=HealthOut)
async def health() -> Json:
    """Say that the process is alive."""
    return {"status": "ok"}


@router.get("/readyz", response_model=ReadyOut)
async def ready(gateway: GatewayDep) -> Json:
    """Say whether jobs are taken, and what was looked at."""
    return await check_ready(gateway)


@router.get("/v1/modes", dependencies=[Depends(count_stranger)])
async def modes() -> dict[str, dict[str, str]]:
    """Return who sees what in each mode."""
    return modes_table()


@router.get(
    "/.well-known/jwks.json",
    response_model=JwksOut,
    dependencies=[Depends(count_stranger)],
)
async def receipt_keys(gateway: GatewayDep) -> Json:
    """Return the keys that sign receipts, the newest first, and their history."""
    return await asyncio.to_thread(gateway.receipt_keys.served)
