"""The bytes of one upload as they arrive: not too many, and not too slowly."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from privacy.errors import LimitError

_LEAST_BYTES_PER_S = 10_000


@dataclass(frozen=True, slots=True)
class Room:
    """How large an upload may be, and how the refusal of more is called.

    Attributes:
        max_bytes: Of any upload.
        too_large: The refusal of more than that.
        left_bytes: What the tenant's quota leaves to all its uploads under way.
        over_quota: The refusal of more than that.
    """

    max_bytes: int
    too_large: LimitError
    left_bytes: int
    over_quota: LimitError

    def check(self, size: int, *, others: int = 0) -> None:
        """Refuse a size that is too large.

        Args:
            size: Of this upload.
            others: What the tenant's other requests brought since the room was made.

        Raises:
            LimitError: It is.
        """
        if size + others > self.left_bytes:
            raise self.over_quota
        if size > self.max_bytes:
            raise self.too_large


class Arrival:
    """One request's body."""

    def __init__(self, chunks: AsyncIterator[bytes], *, patience_s: float) -> None:
        """Read `chunks`, which may fall `patience_s` behind 10 kB a second."""
        self._chunks = aiter(chunks)
        self._patience_s = patience_s
        self._began = self.last_at = time.monotonic()
        self._waits: asyncio.Timeout | None = None
        self.size = 0

    async def next(self) -> bytes | None:
        """Return the next chunk, None at the end.

        Raises:
            LimitError: It did not come in time, or `end` was called.
        """
        allowed_s = self._patience_s + self.size / _LEAST_BYTES_PER_S
        try:
            left_s = self._began + allowed_s - time.monotonic()
            async with asyncio.timeout(left_s) as self._waits:
                chunk = await anext(self._chunks, None)
        except TimeoutError:
            msg = f"no more than {self.size} bytes came in time: go on with the upload"
            raise LimitError(msg, code="upload-too-slow") from None
        finally:
            self._waits = None
        self.last_at = time.monotonic()
        self.size += len(chunk or b"")
        return chunk

    def end(self) -> None:
        """Wait for nothing more."""
        if self._waits:
            self._waits.reschedule(asyncio.get_running_loop().time())
