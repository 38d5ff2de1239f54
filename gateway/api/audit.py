"""The audit log, for operators: its entries, and the tree heads that bind its end."""

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.api.auth import Admin, GatewayDep
from gateway.api.schemas import AuditHeadsOut, AuditOut
from gateway.store.audit import MOST_ENTRIES
from privacy.encoding import Json

router = APIRouter(prefix="/v1/audit", tags=["audit log"])


@router.get("", response_model=AuditOut)
def entries(
    gateway: GatewayDep,
    _key: Admin,
    after: Annotated[int, Query(ge=0, le=1 << 53)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = MOST_ENTRIES,
) -> Json:
    """Return entries of the audit log after one, as the exact lines that are hashed."""
    end, archived = gateway.audit.end()
    return {
        "lines": gateway.audit.entries(after, limit),
        "size": end.size,
        "sha256": end.sha256,
        "archived_size": archived.size,
        "archived_sha256": archived.sha256,
    }


@router.get("/heads", response_model=AuditHeadsOut)
def heads(
    gateway: GatewayDep,
    _key: Admin,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Json:
    """Return kept tree heads, the newest first and the last of every hour before."""
    found = gateway.receipt_log.heads(limit=limit)
    return {"heads": [note.decode() for note in found]}
