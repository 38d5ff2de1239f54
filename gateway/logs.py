"""Logs: JSON lines on stderr, with digests and ids, never bodies, keys or inputs."""

import logging
import secrets
import sys
import time
import traceback

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = structlog.get_logger()
_QUIET = ("/healthz", "/readyz")
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
    dbos = logging.getLogger("dbos")  # it adds a handler of its own if it has none
    dbos.handlers, dbos.propagate = [handler], False


def error_id_of(exc: BaseException, **context: str) -> str:
    """Log a defect of ours and return the id a client may quote.

    Only the type and the place are logged: a message may quote what it choked on.
    """
    error_id = secrets.token_hex(6)
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
    """ASGI middleware: one line a request, an id on it and on the response."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status = secrets.token_hex(8), time.perf_counter(), 0
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if scope["path"] not in _QUIET:
                _log.info(
                    "request",
                    request_id=request_id,
                    method=scope["method"],
                    path=scope["path"][:_MAX_PATH],
                    status=status,
                    ms=round((time.perf_counter() - began) * 1000, 2),
                    key_id=state.get("key_id"),
                )
