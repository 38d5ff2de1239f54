"""How much, how slowly and how often a request may come.

Uploads stream to disk and have limits of size and time of their own.
"""

import asyncio
import time
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.problems import problem_response
from gateway.identity.rates import Rates, Standing
from gateway.problems import problem_of
from privacy.errors import FormatError, LimitError, NotFoundError, PrivacyError

MAX_JSON_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 15
_MAX_TARGET_BYTES = 1 << 13
_UPLOADS = ("/v1/blobs/", "/v1/keys/", "/v1/contract-inputs/")
_UNCOUNTED = {"/healthz", "/readyz"}


def is_upload(scope: Scope) -> bool:
    """Whether a request's body is an upload."""
    return scope["method"] in {"PUT", "PATCH"} and scope["path"].startswith(_UPLOADS)


class RequestLimits:
    """ASGI middleware: heads and bodies of bounded size, bodies in bounded time."""

    def __init__(self, app: ASGIApp, *, body_timeout_s: float) -> None:
        """Wrap `app`; a body that is no upload has so many seconds to come."""
        self._app = app
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; too much of it is a 413, too slowly a 408."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if refusal := _refusal(scope):
            problem = problem_of(refusal)
            await problem_response(problem)(scope, receive, send)
            return
        if not is_upload(scope):
            receive = _Bounded(receive, self._body_timeout_s).receive
        await self._app(scope, receive, send)


class _Bounded:
    """The messages of one body."""

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._ends_at = time.monotonic() + timeout_s
        self._size = 0
        self._is_whole = False

    async def receive(self) -> Message:
        if self._is_whole:  # what comes now is the end of the connection
            return await self._receive()
        try:
            async with asyncio.timeout(self._ends_at - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT) from None
        self._size += len(message.get("body", b""))
        if self._size > MAX_JSON_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self._is_whole = not message.get("more_body", False)
        return message


def _refusal(scope: Scope) -> PrivacyError | None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > _MAX_TARGET_BYTES:
        msg = f"the address has more than {_MAX_TARGET_BYTES} bytes"
        return FormatError(msg, code="address-too-long")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > (
        MAX_HEADER_BYTES
    ):
        msg = f"the headers have more than {MAX_HEADER_BYTES} bytes"
        return FormatError(msg, code="headers-too-large")
    if not scope["path"].isprintable():
        return NotFoundError("there is nothing at this path: see /openapi.json")
    return None


class RateFields:
    """ASGI middleware: counts strangers, and tells everyone where they stand."""

    def __init__(self, app: ASGIApp, *, rates: Rates) -> None:
        """Wrap `app`; who is authenticated is counted there."""
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; one too many without a key is a 429."""
        if scope["type"] != "http" or scope["path"] in _UNCOUNTED:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def send_with_fields(message: Message) -> None:
            standing = state.get("rate")
            if message["type"] == "http.response.start" and standing:
                MutableHeaders(scope=message).update(standing.headers)
            await send(message)

        if not any(name == b"authorization" for name, _ in scope["headers"]):
            try:
                state["rate"] = await self._rates.of_stranger(address_of(scope))
                check_rate(state["rate"])
            except LimitError as refusal:
                problem = problem_of(refusal, instance=scope["path"])
                await problem_response(problem)(scope, receive, send_with_fields)
                return
        await self._app(scope, receive, send_with_fields)


def address_of(scope: Scope) -> str:
    """Return the address of whoever sent a request, as a trusted proxy tells it."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def check_rate(standing: Standing | None) -> None:
    """Refuse a request that is one too many.

    Raises:
        LimitError: It is.
    """
    if standing and standing.is_over:
        msg = (
            f"more than {standing.most} requests of class {standing.name} in a minute: "
            f"go on in {standing.reset_s} s"
        )
        raise LimitError(msg, code="rate-limited")
