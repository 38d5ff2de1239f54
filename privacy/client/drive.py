"""Two drivers for the same flows: one blocks, one awaits."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from privacy.client.bearer import Bearer
from privacy.client.infer import Meter
from privacy.client.wire import (
    Call,
    Flow,
    On,
    Reply,
    Work,
    check_reply,
    problem_error,
)
from privacy.errors import FormatError, LimitError, PrivacyError, UnavailableError
from privacy.tls import NO_TLS, TlsFiles, client_context, tls_problem

T = TypeVar("T")
RESTART_S = 30.0
"""How long a gateway that answered before may be away."""

RATE_PATIENCE_S = 120.0
"""How long a request is held back at most while its tenant asks too often."""

_PAUSE_S = 0.5
_TOO_MANY = 429
_MAX_PORT = 65535
_EXAMPLE = "http://127.0.0.1:8400"
_TIMEOUT = httpx.Timeout(30.0, read=120.0, write=600.0)


def _options(
    url: str, api_key: str, token_file: Path | None, tls: TlsFiles
) -> dict[str, Any]:
    """Return the connection's options.

    Raises:
        FormatError: The address is not one of a gateway, or TLS files are unusable.
        AuthError: The API key cannot be one, or the token's file cannot be read.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    is_web = parsed.scheme in {"http", "https"} and parsed.host
    if not is_web or (parsed.port or 0) > _MAX_PORT:
        msg = (
            f"{url[:80]!r} is no gateway address: give one like {_EXAMPLE}, or a name "
            "that `privacy login` saved"
        )
        raise FormatError(msg, code="bad-address")
    # Unpacked answers could be far larger than what was sent: none are asked for.
    options = {
        "base_url": url,
        "headers": {"Accept-Encoding": "identity"},
        "timeout": _TIMEOUT,
        "auth": Bearer(api_key, token_file),
    }
    return {**options, "verify": client_context(tls)} if tls else options


def _request(call: Call, content: object) -> dict[str, Any]:
    """Return the arguments of a request; `content` stands for a body told in pieces."""
    headers = {**call.headers, **_traceparent()}
    if call.sent:
        headers["Content-Length"] = str(len(call.body or b""))
    return {
        "method": call.method,
        "url": call.path,
        "content": content if call.sent else call.body,
        "headers": headers,
        "params": dict(call.params),
    }


def _traceparent() -> dict[str, str]:
    """Return the header that names the trace under way, if there is one.

    Only a program that uses OpenTelemetry has loaded it; others pay nothing.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    here = trace.get_current_span().get_span_context()
    if not here.is_valid:
        return {}
    flags = int(here.trace_flags)
    return {"traceparent": f"00-{here.trace_id:032x}-{here.span_id:016x}-{flags:02x}"}


def _grow(body: bytearray, chunk: bytes, call: Call) -> None:
    body += chunk
    if len(body) > call.limit:
        msg = f"the gateway's answer to {call.path} is longer than {call.limit} bytes"
        raise LimitError(msg, code="answer-too-large")


def _reply(
    call: Call, response: httpx.Response, body: bytearray, meter: Meter
) -> Reply:
    meter.bytes_up += len(call.body or b"")
    meter.bytes_down += len(body)
    headers = {k.lower(): v for k, v in response.headers.items()}
    return Reply(response.status_code, headers, bytes(body))


class _HeldBackError(Exception):
    """The gateway did not look at a request, and takes it after some seconds."""

    def __init__(self, after_s: float, refusal: PrivacyError) -> None:
        super().__init__(refusal.message)
        self.after_s = after_s
        self.refusal = refusal


def _held_back(reply: Reply) -> None:
    """Refuse a reply that says the tenant asked too often.

    Raises:
        _HeldBackError: It does.
    """
    after = reply.headers.get("retry-after", "")
    if reply.status == _TOO_MANY and after.isdecimal():
        refusal = problem_error(reply)
        if refusal.code == "rate-limited" or not reply.body:  # HEAD has none
            raise _HeldBackError(max(1.0, float(after)), refusal)


def _unreachable(url: str, exc: Exception) -> UnavailableError:
    why, next_ = type(exc).__name__, "is it running?"
    if tls_found := tls_problem(exc):
        why, next_ = tls_found, "see the TLS options of `privacy login`"
    elif url.startswith("https") and isinstance(exc, httpx.RemoteProtocolError):
        # In TLS 1.3 a client learns of its certificate's refusal by the silence.
        next_ = "does it want another client certificate (see `privacy login`)?"
    msg = f"the gateway at {url} cannot be reached ({why}): {next_}"
    return UnavailableError(msg, code="gateway-unreachable")


class _Patience:
    """Says whether to ask again: a gateway that answered before may be restarting."""

    def __init__(self) -> None:
        self._answered = False
        self._until = 0.0
        self._held_s = 0.0

    def answered(self) -> None:
        self._answered, self._until, self._held_s = True, 0.0, 0.0

    def pause_s(self, held_back: _HeldBackError) -> float:
        """Return how long to wait.

        Raises:
            PrivacyError: The refusal, if that would be longer than we wait in all.
        """
        self._held_s += held_back.after_s
        if self._held_s > RATE_PATIENCE_S:
            self._held_s = 0.0
            raise held_back.refusal
        return held_back.after_s

    def lasts(self, call: Call, exc: Exception) -> bool:
        now = time.monotonic()
        self._until = self._until or now + RESTART_S
        gone = isinstance(exc, httpx.NetworkError | httpx.RemoteProtocolError)
        return gone and self._answered and call.repeatable and now < self._until


class SyncDriver:
    """Runs flows over a blocking HTTP connection."""

    def __init__(
        self,
        url: str,
        api_key: str,
        transport: httpx.BaseTransport | None = None,
        *,
        token_file: Path | None = None,
        tls: TlsFiles = NO_TLS,
    ) -> None:
        """Prepare a connection; nothing is sent yet."""
        self._http = httpx.Client(
            **_options(url, api_key, token_file, tls), transport=transport
        )
        self._url = url
        self._patience = _Patience()

    def run(self, flow: Flow[T], meter: Meter | None = None) -> T:
        """Return what the flow returns."""
        meter = meter or Meter()
        answer: Any = None
        error: Exception | None = None
        while True:
            try:
                step = flow.throw(error) if error else flow.send(answer)
            except StopIteration as stop:
                value: T = stop.value
                return value
            answer, error = None, None
            try:
                answer = self._step(step, meter)
            except Exception as exc:  # noqa: BLE001 - the flow decides
                error = exc

    def _step(self, step: Call | Work | On, meter: Meter) -> Any:
        if isinstance(step, Work):
            return step.run()
        if isinstance(step, On):
            return step.driver.run(step.flow, step.meter)
        while True:
            try:
                return self._ask(step, meter)
            except (httpx.RequestError, httpx.InvalidURL) as exc:
                if not self._patience.lasts(step, exc):
                    raise _unreachable(self._url, exc) from exc
                time.sleep(_PAUSE_S)
            except _HeldBackError as exc:
                time.sleep(self._patience.pause_s(exc))

    def _ask(self, call: Call, meter: Meter) -> Reply:
        body = bytearray()
        with self._http.stream(**_request(call, call.chunks())) as response:
            for chunk in response.iter_bytes():
                _grow(body, chunk, call)
        reply = _reply(call, response, body, meter)
        _held_back(reply)
        self._patience.answered()
        return check_reply(call, reply)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()


async def _awaited(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class AsyncDriver:
    """Runs flows over an asynchronous HTTP connection; work goes to a thread."""

    def __init__(
        self,
        url: str,
        api_key: str,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        token_file: Path | None = None,
        tls: TlsFiles = NO_TLS,
    ) -> None:
        """Prepare a connection; nothing is sent yet."""
        self._http = httpx.AsyncClient(
            **_options(url, api_key, token_file, tls), transport=transport
        )
        self._url = url
        self._patience = _Patience()

    async def run(self, flow: Flow[T], meter: Meter | None = None) -> T:
        """Return what the flow returns."""
        meter = meter or Meter()
        answer: Any = None
        error: Exception | None = None
        while True:
            try:
                step = flow.throw(error) if error else flow.send(answer)
            except StopIteration as stop:
                value: T = stop.value
                return value
            answer, error = None, None
            try:
                answer = await self._step(step, meter)
            except Exception as exc:  # noqa: BLE001 - the flow decides
                error = exc

    async def _step(self, step: Call | Work | On, meter: Meter) -> Any:
        if isinstance(step, Work):
            return await asyncio.to_thread(step.run)
        if isinstance(step, On):
            return await step.driver.run(step.flow, step.meter)
        while True:
            try:
                return await self._ask(step, meter)
            except (httpx.RequestError, httpx.InvalidURL) as exc:
                if not self._patience.lasts(step, exc):
                    raise _unreachable(self._url, exc) from exc
                await asyncio.sleep(_PAUSE_S)
            except _HeldBackError as exc:
                await asyncio.sleep(self._patience.pause_s(exc))

    async def _ask(self, call: Call, meter: Meter) -> Reply:
        body = bytearray()
        request = _request(call, _awaited(call.chunks()))
        async with self._http.stream(**request) as response:
            async for chunk in response.aiter_bytes():
                _grow(body, chunk, call)
        reply = _reply(call, response, body, meter)
        _held_back(reply)
        self._patience.answered()
        return check_reply(call, reply)

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self.close()
