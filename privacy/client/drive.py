"""Two drivers for the same flows: one blocks, one awaits."""

import asyncio
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from privacy.client.infer import Meter
from privacy.client.wire import Call, Flow, Reply, Work, check_reply
from privacy.errors import UnavailableError

T = TypeVar("T")
_TIMEOUT = httpx.Timeout(30.0, read=120.0, write=600.0)


def _headers(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _reply(call: Call, response: httpx.Response, meter: Meter) -> Reply:
    meter.bytes_up += len(call.body or b"")
    meter.bytes_down += len(response.content)
    headers = {k.lower(): v for k, v in response.headers.items()}
    return check_reply(call, Reply(response.status_code, headers, response.content))


def _unreachable(url: str, exc: Exception) -> UnavailableError:
    msg = (
        f"the gateway at {url} cannot be reached ({type(exc).__name__}): is it running?"
    )
    return UnavailableError(msg, code="gateway-unreachable")


class SyncDriver:
    """Runs flows over a blocking HTTP connection."""

    def __init__(
        self, url: str, api_key: str, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Prepare a connection; nothing is sent yet."""
        self._http = httpx.Client(
            base_url=url,
            headers=_headers(api_key),
            timeout=_TIMEOUT,
            transport=transport,
        )
        self._url = url

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

    def _step(self, step: Call | Work, meter: Meter) -> Any:
        if isinstance(step, Work):
            return step.run()
        try:
            response = self._http.request(
                step.method,
                step.path,
                content=step.body,
                headers=dict(step.headers),
                params=dict(step.params),
            )
        except httpx.TransportError as exc:
            raise _unreachable(self._url, exc) from exc
        return _reply(step, response, meter)

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


class AsyncDriver:
    """Runs flows over an asynchronous HTTP connection; work goes to a thread."""

    def __init__(
        self, url: str, api_key: str, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Prepare a connection; nothing is sent yet."""
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=_headers(api_key),
            timeout=_TIMEOUT,
            transport=transport,
        )
        self._url = url

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

    async def _step(self, step: Call | Work, meter: Meter) -> Any:
        if isinstance(step, Work):
            return await asyncio.to_thread(step.run)
        try:
            response = await self._http.request(
                step.method,
                step.path,
                content=step.body,
                headers=dict(step.headers),
                params=dict(step.params),
            )
        except httpx.TransportError as exc:
            raise _unreachable(self._url, exc) from exc
        return _reply(step, response, meter)

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
