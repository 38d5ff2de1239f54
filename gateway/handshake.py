"""TLS handshakes that cannot be held for nothing.

uvicorn leaves TLS to the event loop: a handshake may take a minute there, and who has
not ended it is in no count of connections. Here it has seconds, and is counted.
"""

import asyncio
import ssl
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import cast

from uvicorn.protocols.utils import get_remote_addr

from gateway.addresses import network_of

HANDSHAKE_S = 10.0
"""How long a handshake may take; slow lines need a second or two."""


@dataclass(slots=True)
class Connections:
    """How many connections each address has, in a handshake or past it.

    Addresses of one IPv6 customer are one.

    Attributes:
        by_address: How many one may have.
        trusted: Addresses and networks that may have more.
        most_handshakes: Under way at once, whoever from.
    """

    by_address: int
    trusted: tuple[str, ...] = ()
    most_handshakes: int = 1 << 10
    handshakes: int = 0
    _open: Counter[str] = field(default_factory=Counter)

    def enter(self, address: str) -> bool:
        """Count a connection, which has to `leave`; tell whether it may go on."""
        whose = network_of(address)
        self._open[whose] += 1
        return self._open[whose] <= self.by_address or self._is_trusted(address)

    def leave(self, address: str) -> None:
        """Count a connection no more."""
        whose = network_of(address)
        self._open[whose] -= 1
        if self._open[whose] <= 0:
            del self._open[whose]

    def _is_trusted(self, address: str) -> bool:
        try:
            return any(ip_address(address) in ip_network(n) for n in self.trusted)
        except ValueError:  # a socket file has no address
            return False


class Handshake(asyncio.Protocol):
    """A connection until both sides have agreed on TLS; then another protocol's."""

    def __init__(
        self, inner: asyncio.Protocol, context: ssl.SSLContext, known: Connections
    ) -> None:
        """Hand the connection over to `inner` once TLS is agreed on."""
        self._inner, self._context, self._known = inner, context, known
        self._early = bytearray()
        self._is_lost = self._is_over = False
        self._greeting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; one too many is cut off at once."""
        plain = cast("asyncio.Transport", transport)
        plain.pause_reading()  # what comes is for TLS, which begins a moment later
        self._greeting = asyncio.get_running_loop().create_task(self._greet(plain))

    def data_received(self, data: bytes) -> None:
        """Keep what came together with the end of the handshake."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._is_lost = True
        if self._is_over:
            self._inner.connection_lost(exc)

    async def _greet(self, plain: asyncio.Transport) -> None:
        remote, known = get_remote_addr(plain), self._known
        address = remote[0] if remote else ""
        known.handshakes += 1
        safe: asyncio.Transport | None = None
        try:
            if not known.enter(address) or known.handshakes > known.most_handshakes:
                plain.abort()
            elif not plain.is_closing():
                with suppress(OSError):  # not TLS, not trusted, or too slow: closed
                    safe = await self._agreed(plain)
        finally:
            known.handshakes -= 1
            known.leave(address)
        if safe and not self._is_lost:
            self._hand_over(safe)

    async def _agreed(self, plain: asyncio.Transport) -> asyncio.Transport | None:
        return await asyncio.get_running_loop().start_tls(
            plain,
            self,
            self._context,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_S,
        )

    def _hand_over(self, safe: asyncio.Transport) -> None:
        self._is_over = True
        safe.set_protocol(self._inner)
        self._inner.connection_made(safe)
        if self._early:
            self._inner.data_received(bytes(self._early))
