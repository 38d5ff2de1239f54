"""Places for jobs: so many run at once, and who is cancelled stops waiting for one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Places:
    """A number of places, given in the order of asking."""

    def __init__(self, size: int) -> None:
        """Have `size` places."""
        self._free = asyncio.Semaphore(size)

    @asynccontextmanager
    async def take(self, ended: asyncio.Event) -> AsyncIterator[None]:
        """Hold a place meanwhile; without one if `ended` came first, so look at it."""
        taking = asyncio.ensure_future(self._free.acquire())
        leaving = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait({taking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            leaving.cancel()
            if not taking.cancel():  # it is over: the place was taken
                self._free.release()
