"""What a gateway does again and again beside its requests."""

import asyncio
from collections.abc import Callable

from gateway.logs import error_id_of


async def every(seconds: float, do: Callable[[], object]) -> None:
    """Call a function in a thread, again so many seconds after it has ended, for ever.

    An error is logged and ends nothing: the next time may go better.
    """
    while True:
        try:
            await asyncio.to_thread(do)
        except Exception as exc:  # noqa: BLE001
            error_id_of(exc, task=getattr(do, "__qualname__", "background"))
        await asyncio.sleep(seconds)
