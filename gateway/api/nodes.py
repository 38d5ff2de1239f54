"""The machines that run jobs."""

from fastapi import APIRouter

from gateway.api.auth import GatewayDep, ModelReader
from gateway.api.schemas import NodesOut
from privacy.encoding import Json

router = APIRouter(tags=["nodes"])


@router.get("/v1/nodes", response_model=NodesOut)
async def list_nodes(gateway: GatewayDep, key: ModelReader) -> Json:
    """Return every node that runs this gateway's jobs."""
    doubts = {
        # What operators wrote down, perhaps of a tenant's job, is for operators.
        s.node: f"{s.state}: {s.why}" if key.allows("admin") else s.state
        for s in gateway.node_states.all().values()
    }
    nodes = gateway.scheduler.describe()
    return {"nodes": [{**n, "doubt": doubts.get(n["name"], "")} for n in nodes]}
