"""Logs: JSON lines on stderr, with digests and ids, never bodies, keys or inputs."""

import logging
import re
import secrets
import sys
import time
import traceback

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.metrics import ERRORS, request_answered
from gateway.traces import request_span, trace_id_of

_log = structlog.get_logger()
_QUIET = ("/healthz", "/readyz", "/metrics")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_PATH = 200  # anyone can ask for a longer one


def configure_logs() -> None:
    """Send our records and those of libraries to stderr as JSON lines."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def error_id_of(exc: BaseException, **context: str) -> str:
    """Log a defect of ours and return the id a client may quote.

    Only the type and the place are logged: a message may quote what it choked on.
    """
    error_id = secrets.token_hex(6)
    where = context.get("task") or ("job" if "job" in context else "request")
    ERRORS.labels(where).inc()
    places = [
        f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}"
        for f in traceback.extract_tb(exc.__traceback__)[-12:]
    ]
    _log.error(
        "internal-error",
        error_id=error_id,
        type=type(exc).__name__,
        places=places,
        **context,
    )
    return error_id


class RequestLog:
    """ASGI middleware: one line a request, an id on it and on the response.

    The id is the client's own `X-Request-Id` if it has the form of one. Whatever is
    logged on behalf of the request, its job included, names it, and the trace that
    the request said it is part of.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(8)
        known = {"request_id": request_id}
        if trace_id := trace_id_of(headers.get("traceparent", "")):
            known["trace_id"] = trace_id
        exchange = _Exchange(receive, send, request_id)
        scope.setdefault("state", {})["request_id"] = request_id
        with (
            structlog.contextvars.bound_contextvars(**known),
            request_span(scope["method"], headers.get("traceparent", "")) as made,
        ):
            try:
                await self._app(scope, exchange.receive, exchange.send)
            finally:
                exchange.note(scope)
                if made:
                    made.update_name(f"{scope['method']} {route_of(scope)}")
                    made.set_attributes(exchange.facts(scope))


class _Exchange:
    """One request and its answer as they pass."""

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive, self._send = receive, send
        self._request_id = request_id
        self._began = time.perf_counter()
        self._status = self._received = self._sent = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        self._sent += len(message.get("body", b""))
        await self._send(message)

    def facts(self, scope: Scope) -> dict[str, str | int]:
        return {
            "http.request.method": scope["method"],
            "http.route": route_of(scope),
            "http.response.status_code": self._status,
            "privacy.request_id": self._request_id,
        }

    def note(self, scope: Scope) -> None:
        """Log and count the request; what nobody serves may be a secret in a path."""
        seconds = time.perf_counter() - self._began
        route = route_of(scope)
        request_answered(
            scope["method"],
            route or "none",
            self._status,
            seconds=seconds,
            received=self._received,
            sent=self._sent,
        )
        if scope["path"] not in _QUIET:
            _log.info(
                "request",
                method=scope["method"],
                path=scope["path"][:_MAX_PATH] if route else "",
                status=self._status,
                ms=round(seconds * 1000, 2),
                key_id=scope["state"].get("key_id"),
            )


def route_of(scope: Scope) -> str:
    """Return the template of the route that served a request, "" if none did."""
    return str(getattr(scope.get("route"), "path", ""))
