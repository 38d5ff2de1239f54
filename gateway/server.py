"""How the HTTP server is set up: connections that cannot be held for nothing.

uvicorn bounds neither how long a request's head may take, nor how many connections one
address may have, nor how long an answer may wait for somebody who does not read it.
"""

import asyncio
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, ClassVar, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from gateway.api.limits import MAX_HEADER_BYTES
from gateway.handshake import Connections, Handshake
from gateway.logs import error_id_of
from gateway.settings import Settings
from privacy.tls import server_context

_UNREAD_S = 60.0


class BoundedProtocol(H11Protocol):
    """One connection; see `bounded_protocol`."""

    head_timeout_s: ClassVar[float]
    unread_timeout_s: ClassVar[float] = _UNREAD_S
    known: ClassVar[Connections]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See `H11Protocol`."""
        super().__init__(*args, **kwargs)
        self._address = ""
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; one address too often is cut off at once."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if not self.known.enter(self._address):
            transport.abort()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._cancel_head_timer()
        self._cancel_unread_timer()
        self.known.leave(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; what belongs to no request under way has to become one."""
        super().data_received(data)
        if self._is_serving():
            self._cancel_head_timer()
        else:
            self._expect_head()

    def pause_writing(self) -> None:
        """Hold the answer back, for a while."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(
            self.unread_timeout_s, self.transport.abort
        )

    def resume_writing(self) -> None:
        """Go on with the answer."""
        self._cancel_unread_timer()
        super().resume_writing()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(
                self.head_timeout_s, self._close_if_idle
            )

    def _close_if_idle(self) -> None:
        self._head_timer = None
        if not self._is_serving():
            self.transport.close()

    def _is_serving(self) -> bool:
        under_way: RequestResponseCycle | None = self.cycle  # None before the first
        return under_way is not None and not under_way.response_complete

    def _cancel_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _cancel_unread_timer(self) -> None:
        if self._unread_timer:
            self._unread_timer.cancel()
            self._unread_timer = None


class DrainingServer(uvicorn.Server):
    """A server that on SIGTERM serves on until jobs have ended, and stops then.

    A second SIGTERM, or SIGINT, stops it at once.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]
    ) -> None:
        """Serve as `config` says; `drain` returns when it is time to stop."""
        super().__init__(config)
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if sig == signal.SIGTERM and self.started and not self._draining:
            assert self._loop
            self._loop.call_soon_threadsafe(self._begin)
        else:
            super().handle_exit(sig, frame)

    def _begin(self) -> None:
        self._draining = self._draining or asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        try:
            await self._drain()
        except Exception as exc:  # noqa: BLE001 - whatever it is, we stop
            error_id_of(exc, task="drain")
        self.should_exit = True  # not by the signal, which would end us before our end


def bounded_protocol(
    *, head_timeout_s: float, known: Connections, tls: ssl.SSLContext | None = None
) -> type[asyncio.Protocol]:
    """Return the protocol of one server's connections.

    Who reads nothing of an answer for a minute is cut off.

    Args:
        head_timeout_s: In which a request's head has to come, from the first byte on.
        known: Counts them.
        tls: They begin with a handshake of it, which is bounded, too.
    """
    bounds = {"head_timeout_s": head_timeout_s, "known": known}
    made = type("Protocol", (BoundedProtocol,), bounds)
    if tls is None:
        return made

    def begun(**of_server: Any) -> Handshake:
        return Handshake(made(**of_server), tls, known)

    return cast("type[asyncio.Protocol]", begun)  # uvicorn only calls it


def server_options(settings: Settings) -> dict[str, Any]:
    """Return uvicorn's options, but for where to listen.

    Raises:
        FormatError: The files for TLS are not usable.
    """
    return {
        "loop": "uvloop",
        "http": bounded_protocol(
            head_timeout_s=settings.head_timeout_s,
            known=Connections(
                settings.max_connections_by_address,
                settings.trusted_proxies,
                settings.max_connections,
            ),
            tls=server_context(settings.tls) if settings.tls else None,
        ),
        "ws": "none",
        "h11_max_incomplete_event_size": MAX_HEADER_BYTES,
        "forwarded_allow_ips": list(settings.trusted_proxies),
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "limit_concurrency": settings.max_connections,
        "timeout_graceful_shutdown": settings.stop_grace_s,
    }
