"""Whether a gateway can take jobs: what `/readyz` looks at each time it is asked."""

import asyncio
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from gateway.node import Gateway
from privacy.encoding import Json
from privacy.errors import PrivacyError, UnavailableError

_PATIENCE_S = 5.0
_TOLD_FOR_S = 1.0
_NO_BLOB = "0" * 64


@dataclass(slots=True)
class _Look:
    """The last look at a gateway's stores, which may be under way."""

    task: "asyncio.Task[None]"
    ended_at: float = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether what it found, or will find, is still told."""
        return not self.task.done() or time.monotonic() < self.ended_at + _TOLD_FOR_S

    def end(self, task: "asyncio.Task[None]") -> None:
        self.ended_at = time.monotonic()
        if not task.cancelled():
            task.exception()  # it may be that nobody waits for it any more


_looks: WeakKeyDictionary[Gateway, _Look] = WeakKeyDictionary()


async def check_ready(gateway: Gateway) -> Json:
    """Return what was looked at, all of it well.

    Raises:
        UnavailableError: Something is not; the message names it, without paths.
    """
    if not gateway.ready:
        word = "stopping" if gateway.draining else "starting or stopping"
        msg = f"the gateway is {word}: try again soon, or ask another"
        raise UnavailableError(msg, code="draining" if gateway.draining else None)
    if not any(node["state"] == "ready" for node in gateway.scheduler.describe()):
        msg = "no node is ready to run jobs: see /v1/nodes"
        raise UnavailableError(msg, code="no-node")
    if not gateway.receipt_keys.is_current:
        msg = "the receipt key was rotated elsewhere: the operator has to copy it here"
        raise UnavailableError(msg, code="receipt-key-mismatch")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await _check_stores_now_and_then(gateway)
    except TimeoutError:
        msg = f"the stores did not answer within {_PATIENCE_S:g} s"
        raise UnavailableError(msg, code="stores-slow") from None
    checked = ("nodes", "receipt key", "database", "models", "blobs", "disk")
    return {"status": "ready", "checks": dict.fromkeys(checked, "ok")}


async def _check_stores_now_and_then(gateway: Gateway) -> None:
    """Look at the stores, unless that was done a moment ago: anybody may ask.

    One look is under way at a time, however many ask and however long it takes: a store
    that hangs holds up one thread.
    """
    look = _looks.get(gateway)
    if look is None or not look.is_fresh:
        task = asyncio.create_task(asyncio.to_thread(_check_stores, gateway))
        look = _looks[gateway] = _Look(task)
        task.add_done_callback(look.end)
    await asyncio.shield(look.task)


def _check_stores(gateway: Gateway) -> None:
    gateway.jobs.count_open()
    try:
        gateway.registry.all()  # refused if nobody can be trusted
    except PrivacyError as exc:
        raise UnavailableError(exc.message, code=exc.code) from exc
    gateway.blobs.has(_NO_BLOB, 0)  # a bucket may be away
    settings = gateway.settings
    data_dir = settings.data_dir
    _check_folder(settings.blobs_dir or data_dir / "blobs", settings.min_free_bytes)
    _check_folder(data_dir, settings.min_free_bytes)


def _check_folder(folder: Path, least: int) -> None:
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError:
        msg = "the gateway cannot write its files: the operator has to see to it"
        raise UnavailableError(msg, code="storage-unwritable") from None
    if free < least:
        msg = f"the gateway's disk has {free >> 20} MiB left, expected {least >> 20}"
        raise UnavailableError(msg, code="storage-full")
