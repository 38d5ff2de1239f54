"""How often tenants and strangers may ask, as the IETF's RateLimit fields tell them.

Counted in this process's memory: with N gateways a tenant may ask N times as often.
Every request is of one class, by its method, so that no route is forgotten.
"""

import math
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from gateway.addresses import network_of

_CLASSES = {"POST": "submit", "PUT": "upload", "PATCH": "upload"}
_WINDOW_S = 60
_STRANGERS = "unauthenticated"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where somebody stands within one limit.

    Attributes:
        name: Of the limit.
        most: Requests a minute.
        left: Of those.
        reset_s: Until all may be had again.
        is_over: The request was one too many.
    """

    name: str
    most: int
    left: int
    reset_s: int
    is_over: bool

    @property
    def headers(self) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-10."""
        fields = {
            "RateLimit-Policy": f'"{self.name}";q={self.most};w={_WINDOW_S}',
            "RateLimit": f'"{self.name}";r={self.left};t={self.reset_s}',
        }
        return {**fields, "Retry-After": str(self.reset_s)} if self.is_over else fields


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Requests a minute; 0 for any number."""

    submit: int
    upload: int
    read: int
    unauthenticated: int


class _Counts(MemoryStorage):
    """Counts in memory; expired ones are looked for twice a minute.

    `limits` looks through all of them at every request: half a millisecond for 5,000
    addresses. If it should name that otherwise one day, it will do so again.
    """

    _looked_at = 0.0

    async def _MemoryStorage__schedule_expiry(self) -> None:  # noqa: N802
        if time.monotonic() - self._looked_at > _WINDOW_S / 2:
            self._looked_at = time.monotonic()
            await super()._MemoryStorage__schedule_expiry()  # type: ignore[misc]


class Rates:
    """Counts requests of this gateway by tenant, and those of strangers by address."""

    def __init__(self, defaults: RateLimits) -> None:
        """Allow tenants so many, unless one has limits of its own."""
        self._defaults = defaults
        self._limiter = SlidingWindowCounterRateLimiter(_Counts())

    async def of_tenant(
        self, tenant: str, method: str, own: dict[str, int | None]
    ) -> Standing | None:
        """Count a request of a tenant's; None if there is no limit.

        Args:
            tenant: Whose.
            method: Of the request.
            own: The tenant's own limits by class; None for the usual one.
        """
        name = _CLASSES.get(method, "read")
        most = own.get(name)
        if most is None:
            most = int(getattr(self._defaults, name))
        return await self._count(name, most, tenant)

    async def of_stranger(self, address: str) -> Standing | None:
        """Count a request without a valid key or token; None if there is no limit."""
        return await self._count(
            _STRANGERS, self._defaults.unauthenticated, network_of(address)
        )

    async def _count(self, name: str, most: int, whose: str) -> Standing | None:
        if not most:
            return None
        limit = RateLimitItemPerMinute(most)
        is_taken = await self._limiter.hit(limit, name, whose)
        stats = await self._limiter.get_window_stats(limit, name, whose)
        reset_s = max(1, math.ceil(stats.reset_time - time.time()))
        return Standing(name, most, max(0, stats.remaining), reset_s, not is_taken)
