"""What a gateway does again and again beside its requests."""

import asyncio
from collections.abc import Callable

import structlog

from gateway.logs import error_id_of
from gateway.store.away import StoreAwayError

_log = structlog.get_logger()


async def every(seconds: float, do: Callable[[], object]) -> None:
    """Call a function in a thread, again so many seconds after it has ended, for ever.

    An error is logged and ends nothing: the next time may go better. A database that is
    away is logged once.
    """
    task, away = getattr(do, "__qualname__", "background"), False
    while True:
        try:
            await asyncio.to_thread(do)
            away = False
        except StoreAwayError as exc:
            if not away:
                _log.warning("store-away", task=task, code=exc.code)
            away = True
        except Exception as exc:  # noqa: BLE001
            error_id_of(exc, task=task)
        await asyncio.sleep(seconds)
