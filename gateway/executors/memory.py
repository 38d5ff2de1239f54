"""Memory for jobs: what each is expected to take is set aside before it starts.

Two jobs that both look at what is free now would both find it, and end by the kernel's
hand. Here a job waits until what it needs was given back, in the order of asking, so
that a large one is not passed over for ever.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from privacy.bundle import Bundle
from privacy.errors import LimitError
from privacy.modes import Mode


def needed(mode: Mode, bundle: Bundle) -> int:
    """Return how many bytes a model says that a job takes; 0 if it says nothing."""
    return _stated(mode, bundle, "memory_bytes")


def gpus_needed(mode: Mode, bundle: Bundle) -> int:
    """Return how many GPUs a model says that a job takes; 0 if it says nothing."""
    return _stated(mode, bundle, "gpus")


def _stated(mode: Mode, bundle: Bundle, name: str) -> int:
    part = bundle.manifest.modes.get(mode)
    stated = part.cost.get(name) if part else None
    return stated if isinstance(stated, int) else 0


class Memory:
    """So many bytes, shared out among jobs."""

    def __init__(self, total_bytes: int) -> None:
        """Have `total_bytes` to give."""
        self._total = self._free = total_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def refusal(self, needed: int) -> LimitError | None:
        """Return why so many bytes can never be had here, None if they can."""
        if needed <= self._total:
            return None
        msg = (
            f"this job takes about {needed >> 20} MiB, this node has "
            f"{self._total >> 20} MiB for such jobs: use a node with more memory"
        )
        return LimitError(msg, code="circuit-too-large")

    @asynccontextmanager
    async def take(self, needed: int, ended: asyncio.Event) -> AsyncIterator[None]:
        """Hold memory meanwhile; without it if `ended` came first, so look at it.

        Raises:
            LimitError: The job needs more than there will ever be.
        """
        if refusal := self.refusal(needed):
            raise refusal
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (needed, turn)
        self._waiting.append(place)
        self._serve()
        leaving = asyncio.ensure_future(ended.wait())
        both: set[asyncio.Future[Any]] = {turn, leaving}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            leaving.cancel()
            if turn.done():
                self._free += needed
            else:
                self._waiting.remove(place)
            self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            needed, turn = self._waiting.popleft()
            self._free -= needed
            turn.set_result(None)
