"""Metrics for Prometheus, for keys with the scope metrics:read."""

import asyncio
import shutil
from collections import Counter

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway import metrics
from gateway.api.auth import GatewayDep, MetricsReader
from gateway.executors.node import LocalNode
from gateway.node import Gateway
from gateway.store.jobs import OPEN
from privacy.modes import Mode

router = APIRouter(tags=["operation"])

_STATES = ("ready", "lost", "quarantined", "unreachable", "distrusted")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Metrics"}},
)
async def read_metrics(gateway: GatewayDep, _key: MetricsReader) -> Response:
    """Return this process's metrics in Prometheus's text format."""
    _look_at_nodes(gateway)
    await asyncio.to_thread(_look_at_store, gateway)
    text = generate_latest(metrics.REGISTRY)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _look_at_nodes(gateway: Gateway) -> None:
    metrics.READY.set(gateway.ready)
    nodes = gateway.scheduler.describe()
    states = Counter(node["state"] for node in nodes)
    for state in _STATES:
        metrics.NODES.labels(state).set(states[state])
    busy = gateway.scheduler.busy()
    for mode in Mode:
        workers = [node["modes"].get(str(mode), {}).get("workers", 0) for node in nodes]
        metrics.WORKERS.labels(mode).set(sum(workers))
        metrics.WORKERS_BUSY.labels(mode).set(busy[mode])
    local = [n for n in gateway.scheduler.nodes().values() if isinstance(n, LocalNode)]
    metrics.ENCLAVES.set(sum(len(e.warm()) for n in local for e in n.enclaves.values()))


def _look_at_store(gateway: Gateway) -> None:
    metrics.DISK_FREE.set(shutil.disk_usage(gateway.settings.data_dir).free)
    metrics.RECEIPTS_UNLOGGED.set(gateway.receipt_log.behind())
    open_jobs = gateway.jobs.count_open()
    for mode in Mode:
        for status in OPEN:
            count = open_jobs.get((mode, status), 0)
            metrics.OPEN_JOBS.labels(mode, status).set(count)
