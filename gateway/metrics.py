"""Metrics of this process for Prometheus, in a registry of our own.

Each is counted where it happens and read at `/metrics`. Labels are bounded: modes,
templates of routes, models (the first hundred, then "other"). None names a tenant, an
API key, a job or a digest: whoever may read metrics learns how busy the gateway is, not
for whom.
"""

from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)

if TYPE_CHECKING:  # what the store counts here must not need the store
    from gateway.store.jobs import Job

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_MAX_MODELS = 100
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_models: set[str] = set()

REQUESTS = Counter(
    "privacy_http_requests",
    "Answered requests.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "privacy_http_request_seconds",
    "From the head of a request to the end of its answer, waiting included.",
    ["route"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
RECEIVED = Counter(
    "privacy_http_received_bytes", "Bodies of requests.", ["route"], registry=REGISTRY
)
SENT = Counter(
    "privacy_http_sent_bytes", "Bodies of answers.", ["route"], registry=REGISTRY
)
JOBS = Counter(
    "privacy_jobs",
    "Jobs that this gateway ended.",
    ["mode", "model", "status"],
    registry=REGISTRY,
)
RETRIES = Counter(
    "privacy_job_retries", "Attempts beyond a job's first.", ["mode"], registry=REGISTRY
)
_JOB_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
JOB_WAIT = Histogram(
    "privacy_job_wait_seconds",
    "From a job's submission to its first attempt.",
    ["mode"],
    registry=REGISTRY,
    buckets=_JOB_BUCKETS,
)
JOB_RUN = Histogram(
    "privacy_job_run_seconds",
    "From a job's first attempt to its end.",
    ["mode"],
    registry=REGISTRY,
    buckets=_JOB_BUCKETS,
)
ERRORS = Counter(
    "privacy_internal_errors",
    "Defects by where they showed: a request, a job or a background task.",
    ["where"],
    registry=REGISTRY,
)
DATABASE_ERRORS = Counter(
    "privacy_database_errors",
    "Statements that failed for a database that is away or full.",
    registry=REGISTRY,
)
WEBHOOK_ATTEMPTS = Counter(
    "privacy_webhook_attempts",
    "Attempts to deliver a message.",
    ["result"],
    registry=REGISTRY,
)
READY = Gauge("privacy_ready", "1 while jobs are taken.", registry=REGISTRY)
OPEN_JOBS = Gauge(
    "privacy_jobs_open",
    "Jobs that wait or run, in the whole database: of several gateways take the max.",
    ["mode", "status"],
    registry=REGISTRY,
)
WORKERS = Gauge(
    "privacy_workers",
    "Jobs that may run at once, on all nodes.",
    ["mode"],
    registry=REGISTRY,
)
WORKERS_BUSY = Gauge(
    "privacy_workers_busy",
    "Jobs of this gateway that run.",
    ["mode"],
    registry=REGISTRY,
)
NODES = Gauge("privacy_nodes", "Nodes by state.", ["state"], registry=REGISTRY)
ENCLAVES = Gauge(
    "privacy_enclaves", "Enclaves of this machine that are alive.", registry=REGISTRY
)
RECEIPTS_UNLOGGED = Gauge(
    "privacy_receipts_unlogged",
    "Receipts that are not in the receipt log yet, in the whole database.",
    registry=REGISTRY,
)
DISK_FREE = Gauge(
    "privacy_disk_free_bytes", "Room below the data folder.", registry=REGISTRY
)


def request_answered(
    method: str, route: str, status: int, *, seconds: float, received: int, sent: int
) -> None:
    """Count a request; `route` is a template, status 0 means that nobody was left."""
    known = method if method in _METHODS else "other"
    REQUESTS.labels(known, route, str(status)).inc()
    REQUEST_SECONDS.labels(route).observe(seconds)
    RECEIVED.labels(route).inc(received)
    SENT.labels(route).inc(sent)


def job_ended(job: "Job") -> None:
    """Count a job that has just reached its terminal state."""
    JOBS.labels(job.mode, _bounded(job.model), job.status).inc()
    if not job.started_at:
        return
    RETRIES.labels(job.mode).inc(max(0, job.attempts - 1))
    JOB_WAIT.labels(job.mode).observe(_seconds(job.submitted_at, job.started_at))
    JOB_RUN.labels(job.mode).observe(_seconds(job.started_at, job.finished_at))


def _bounded(model: str) -> str:
    if len(_models) < _MAX_MODELS:
        _models.add(model)
    return model if model in _models else "other"


def _seconds(begin: str, end: str) -> float:
    """Return the time between two of our times; 0 if the clock was set back."""
    passed = datetime.fromisoformat(end) - datetime.fromisoformat(begin)
    return max(0.0, passed.total_seconds())
