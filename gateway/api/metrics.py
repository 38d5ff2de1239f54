"""Metrics for Prometheus, for keys with the scope metrics:read."""

import shutil

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway import metrics
from gateway.api.auth import GatewayDep, MetricsReader
from gateway.node import Gateway
from gateway.store.jobs import OPEN
from privacy.modes import Mode

router = APIRouter(tags=["operation"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Metrics"}},
)
def read_metrics(gateway: GatewayDep, _key: MetricsReader) -> Response:
    """Return this process's metrics in Prometheus's text format."""
    _look(gateway)
    text = generate_latest(metrics.REGISTRY)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _look(gateway: Gateway) -> None:
    """Bring the gauges up to date."""
    metrics.READY.set(gateway.ready)
    metrics.DISK_FREE.set(shutil.disk_usage(gateway.settings.data_dir).free)
    open_jobs, busy = gateway.jobs.count_open(), gateway.node.busy()
    for mode in Mode:
        for status in OPEN:
            count = open_jobs.get((mode, status), 0)
            metrics.OPEN_JOBS.labels(mode, status).set(count)
        metrics.WORKERS.labels(mode).set(gateway.settings.workers(mode))
        metrics.WORKERS_BUSY.labels(mode).set(busy.get(mode, 0))
    for mode, enclaves in gateway.node.enclaves.items():
        metrics.ENCLAVES.labels(mode).set(enclaves.alive())
