"""The log of receipts, for anyone: its signed head, proofs, and leaf hashes.

What is served are hashes and counts. A receipt cannot be found without having it, for
it holds a random job id.
"""

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import PlainTextResponse

from gateway.api.auth import GatewayDep, count_stranger
from gateway.api.schemas import ConsistencyOut, InclusionOut, LeavesOut, Sha256
from gateway.store.receipt_log import MOST_LEAVES
from privacy.encoding import Json

router = APIRouter(
    prefix="/v1/log", tags=["receipt log"], dependencies=[Depends(count_stranger)]
)

Size = Annotated[int, Query(ge=1, le=1 << 53)]


@router.get("/head", response_class=PlainTextResponse)
def head(gateway: GatewayDep) -> str:
    """Return the newest signed tree head, a C2SP checkpoint."""
    return gateway.receipt_log.head().decode()


@router.get("/proof", response_model=InclusionOut)
def inclusion(gateway: GatewayDep, leaf_hash: Sha256, size: Size) -> Json:
    """Return where a receipt is in the log, and the proof up to a tree's root.

    `leaf_hash` is SHA-256 over a zero byte and the receipt file (RFC 9162).
    """
    found = gateway.receipt_log.prove_inclusion(bytes.fromhex(leaf_hash), size)
    index, path = found
    return {"index": index, "size": size, "path": _encoded(path)}


@router.get("/consistency", response_model=ConsistencyOut)
def consistency(
    gateway: GatewayDep,
    from_: Annotated[int, Query(alias="from", ge=1, le=1 << 53)],
    to: Size,
) -> Json:
    """Return the proof that the log of size `to` begins with that of size `from`."""
    path = gateway.receipt_log.prove_consistency(from_, to)
    return {"from": from_, "to": to, "path": _encoded(path)}


@router.get("/leaves", response_model=LeavesOut)
def leaves(
    gateway: GatewayDep,
    start: Annotated[int, Query(ge=0, le=1 << 53)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_LEAVES)] = MOST_LEAVES,
) -> Json:
    """Return leaf hashes from an index on: who has all of them can make the root."""
    found = gateway.receipt_log.leaves(start, limit)
    return {"start": start, "leaf_hashes": _encoded(found)}


def _encoded(hashes: list[bytes]) -> list[str]:
    return [base64.b64encode(hash_).decode() for hash_ in hashes]
