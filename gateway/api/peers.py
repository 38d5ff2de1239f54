"""Other operators' gateways: what they did, and whether they are trusted again."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Response
from fastapi import Path as InPath

from gateway.api.auth import Admin, GatewayDep
from gateway.api.schemas import PeerLiesOut
from privacy.encoding import Json

router = APIRouter(prefix="/v1/peers", tags=["nodes"])

PeerName = Annotated[str, InPath(pattern="^[a-z0-9][a-z0-9._-]{0,62}$")]


@router.get("/{name}/lies", response_model=PeerLiesOut)
async def list_lies(gateway: GatewayDep, _key: Admin, name: PeerName) -> Json:
    """Return why a peer was distrusted, the newest first, with what it said."""
    return {"lies": await asyncio.to_thread(gateway.peers.lies, name)}


@router.post("/{name}/trust", status_code=204, response_class=Response)
async def trust(gateway: GatewayDep, _key: Admin, name: PeerName) -> Response:
    """Give a distrusted peer jobs again."""
    await asyncio.to_thread(gateway.peers.trust, name)
    gateway.scheduler.changed()
    return Response(status_code=204)
