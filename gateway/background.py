"""What a gateway does again and again beside its requests."""

import asyncio
from collections.abc import Callable

import structlog

from gateway.logs import error_id_of
from gateway.store.away import StoreAwayError

_log = structlog.get_logger()


async def every(seconds: float, do: Callable[[], object]) -> None:
    """Call a function in a thread, again so many seconds after it has ended, for ever.

    An error is logged and ends nothing: the next time may go better.
    """
    while True:
        try:
            await asyncio.to_thread(do)
        except StoreAwayError as exc:
            _log.warning("store-away", code=exc.code, task=_name(do))
        except Exception as exc:  # noqa: BLE001
            error_id_of(exc, task=_name(do))
        await asyncio.sleep(seconds)


def _name(do: Callable[[], object]) -> str:
    return str(getattr(do, "__qualname__", "background"))
