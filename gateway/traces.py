"""Spans for OpenTelemetry: a request, and the job that it began, down to the worker.

    GET|POST /v1/…        the request; part of the client's trace if it names one
    ├── job.accept        until the row is written
    └── job               until the terminal state is written
        ├── job.wait      for a node
        ├── job.run       on it, one for each attempt
        │   ├── worker.load      the engine and the model, as the worker told
        │   └── worker.compute
        └── job.receipt   signed and written

They are exported over OTLP/HTTP if the standard variable OTEL_EXPORTER_OTLP_ENDPOINT
(or …_TRACES_ENDPOINT) is set; otherwise its SDK is not even imported.
Attributes are ids, digests, modes, codes and templates of routes. A job that goes on in
another process begins a new trace: look for its id.
"""

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gateway.executors.base import Watch
from privacy.encoding import Json

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")

Facts = Mapping[str, str | int]

_provider: "TracerProvider | None" = None
_tracer: "Tracer | None" = None


def start_traces() -> None:
    """Export spans from now on, if the environment says where to."""
    global _provider, _tracer  # noqa: PLW0603 - one process, one exporter
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    none = os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    if _tracer or off or none or not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", "privacy-gateway")
    _provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False
    )
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("privacy-compute")


def stop_traces() -> None:
    """Export what is left, and nothing more."""
    global _provider, _tracer  # noqa: PLW0603
    if _provider:
        _provider.shutdown()
    _provider = _tracer = None


def trace_id_of(traceparent: str) -> str:
    """Return the trace id in a header of W3C Trace Context, "" if it is none."""
    found = _FORM.fullmatch(traceparent)
    if not found or not int(found[1], 16) or not int(found[2], 16):
        return ""
    return found[1]


@contextmanager
def span(name: str, facts: Facts | None = None) -> Iterator["Span | None"]:
    """Make a span of what happens meanwhile; None if none are wanted."""
    if _tracer is None:
        yield None
        return
    with _current(_tracer, name, attributes=dict(facts or {})) as made:
        yield made


@contextmanager
def request_span(method: str, traceparent: str) -> Iterator["Span | None"]:
    """Make the span of a request, part of the trace that its header names."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    context = extract({"traceparent": traceparent})
    with _current(_tracer, method, context=context, kind=SpanKind.SERVER) as made:
        yield made


@contextmanager
def _current(tracer: "Tracer", name: str, **options: Any) -> Iterator["Span"]:
    """Make a span; of what breaks it off it tells the type, for a message may quote."""
    from opentelemetry.trace import StatusCode

    with tracer.start_as_current_span(
        name, record_exception=False, set_status_on_exception=False, **options
    ) as made:
        try:
            yield made
        except Exception as exc:
            made.set_status(StatusCode.ERROR, type(exc).__name__)
            raise


def add_facts(facts: Facts) -> None:
    """Add attributes to the span that is under way, if there is one."""
    if _tracer is None:
        return
    from opentelemetry.trace import get_current_span

    get_current_span().set_attributes(dict(facts))


class JobSpans:
    """Hears how a run goes, and makes spans of it when it has ended."""

    def __init__(self) -> None:
        """Begin: the job waits for a node from now on."""
        self._begun_ns = time.time_ns()
        self._attempts: list[dict[str, int]] = []
        self._lock = threading.Lock()

    def around(self, watch: Watch) -> Watch:
        """Return a watch that tells us as well."""
        if _tracer is None:
            return watch

        def started() -> None:
            with self._lock:
                self._attempts.append({"started": time.time_ns()})
            watch.started()

        def progress(report: Json) -> None:
            stage = report.get("stage")
            with self._lock:
                if stage in {"load", "loaded"} and self._attempts:
                    self._attempts[-1].setdefault(str(stage), time.time_ns())
            watch.progress(report)

        return Watch(started, progress)

    def end(self) -> None:
        """Make the spans, below the one that is under way."""
        if _tracer is None:
            return
        with self._lock:
            attempts, ended = list(self._attempts), time.time_ns()
        _past("job.wait", self._begun_ns, attempts[0]["started"] if attempts else ended)
        ends = [a["started"] for a in attempts[1:]] + [ended]
        for number, (attempt, end) in enumerate(zip(attempts, ends, strict=True), 1):
            with _past_around("job.run", attempt["started"], end, number):
                begin = attempt["started"]
                if "load" in attempt:
                    begin = attempt.get("loaded", end)
                    _past("worker.load", attempt["load"], begin)
                _past("worker.compute", begin, end)


def _past(name: str, begin_ns: int, end_ns: int) -> None:
    assert _tracer
    _tracer.start_span(name, start_time=begin_ns).end(max(begin_ns, end_ns))


@contextmanager
def _past_around(name: str, begin_ns: int, end_ns: int, number: int) -> Iterator[None]:
    from opentelemetry.trace import use_span

    assert _tracer
    facts = {"privacy.attempt": number}
    made = _tracer.start_span(name, start_time=begin_ns, attributes=facts)
    with use_span(made):
        yield
    made.end(max(begin_ns, end_ns))
