"""What passes: a database or a store of blobs that is away, a disk that is full.

Requests answer 503 meanwhile. Jobs wait and go on: nothing is lost, no restart needed.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from gateway.metrics import DATABASE_ERRORS
from privacy.errors import UnavailableError

_PASSING = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
_PASSING_STATES = ("25006", "25P03")  # a standby, and a session that paused too long
_FULL = ("database or disk is full", "No space left on device")
_DEFECTS = ("no such ", "syntax error", "has no column")


class StoreAwayError(UnavailableError):
    """A database or a store of blobs cannot be used now; trying again later helps."""

    default_code = "database-unavailable"


def _storage_full() -> StoreAwayError:
    msg = "the gateway's disk is full: the operator has to make room"
    return StoreAwayError(msg, code="storage-full")


@contextmanager
def full_disk() -> Iterator[None]:
    """Turn the error of a write that found no room into a typed one.

    Raises:
        StoreAwayError: "storage-full".
    """
    try:
        yield
    except OSError as exc:
        if exc.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise _storage_full() from exc


@contextmanager
def passing_errors() -> Iterator[None]:
    """Turn what passes, an absent database or a full disk, into typed errors.

    Raises:
        StoreAwayError: "database-unavailable" or "storage-full".
    """
    try:
        yield
    except (*_PASSING, sa.exc.InternalError) as exc:
        state = getattr(getattr(exc, "orig", None), "sqlstate", None)
        if not isinstance(exc, _PASSING) and state not in _PASSING_STATES:
            raise
        DATABASE_ERRORS.inc()
        text = str(getattr(exc, "orig", exc))
        if any(word in text for word in _DEFECTS):
            raise
        if any(word in text for word in _FULL):
            raise _storage_full() from exc
        msg = "the gateway's database is away: try again in a few seconds"
        raise StoreAwayError(msg) from exc
