"""One database for all that the gateway keeps: a SQLite file, or PostgreSQL.

A SQLite file belongs to one process, so there a write transaction is alone, and nothing
else needs a lock. PostgreSQL is shared by several gateways: writes cross each other,
and whatever must not cross takes a lock by name (`Database.lock`) or locks its rows.

A database that is away is one typed error (`database-unavailable`), and a full disk
another (`storage-full`). Neither loses what was committed; both pass.
"""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.migrate import migrate
from privacy.errors import FormatError, UnavailableError

AWAY = frozenset({"database-unavailable", "storage-full"})
"""Codes of failures that pass: whoever can, tries again later."""

_SUBSEC = (3, 42)
"""DBOS asks for `unixepoch('subsec')` wherever Python is 3.12, but SQLite knows it from
3.42 on, and the two come apart: Debian 12 has SQLite 3.40."""
_POOL = {"pool_size": 20, "max_overflow": 20, "hide_parameters": True}
_PASSING = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
_FULL = ("database or disk is full", "No space left on device")
_DEFECTS = ("no such ", "syntax error", "has no column")
_POSTGRES_SESSION = {
    "lock_timeout": "10s",  # a gateway that was stopped must not stop the others:
    "idle_in_transaction_session_timeout": "30s",  # what it holds is given back
    "statement_timeout": "60s",
}


def _unixepoch(when: str) -> float | None:
    return time.time() if when == "subsec" else None


def sqlite_engine(path: Path) -> sa.Engine:
    """Return an engine for a database file, made if absent, readable by us only.

    `synchronous=NORMAL` in WAL mode loses no committed transaction when the process is
    killed; after a power cut the last ones may be missing.
    """
    path.touch(mode=0o600)
    engine = sa.create_engine(f"sqlite:///{path}", **_POOL)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        if sqlite3.sqlite_version_info < _SUBSEC:
            connection.create_function("unixepoch", 1, _unixepoch)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "busy_timeout=30000",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def postgres_engine(url: str) -> sa.Engine:
    """Return an engine for a PostgreSQL database.

    Raises:
        FormatError: The address is not one of PostgreSQL; it is not repeated, for it
            may hold a password.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername != "postgresql+psycopg":
        msg = "database_url is not postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME"
        raise FormatError(msg, code="database-url")
    options = " ".join(
        f"-c {name}={value}" for name, value in _POSTGRES_SESSION.items()
    )
    return sa.create_engine(
        parsed,
        **_POOL,
        pool_timeout=10,
        pool_pre_ping=True,  # after an outage old connections are found out, not used
        connect_args={"connect_timeout": 5, "options": options},
    )


def database_engine(where: Path | str) -> sa.Engine:
    """Return an engine for a file, or for the PostgreSQL at an address.

    Raises:
        FormatError: The address is none.
    """
    return postgres_engine(where) if isinstance(where, str) else sqlite_engine(where)


class Database:
    """Our tables; thread-safe.

    Attributes:
        shared: Other gateways may write to it too.
    """

    def __init__(self, where: Path | str) -> None:
        """Open a file, or the PostgreSQL at an address, and migrate its tables.

        Raises:
            UnavailableError: It is not there, or newer than this program.
            FormatError: The address is none.
        """
        self.shared = isinstance(where, str)
        self._engine = database_engine(where)
        # Cheaper than SQLite's busy loop; PostgreSQL has its own locks.
        self._turn = nullcontext() if self.shared else threading.Lock()
        try:
            with passing_errors():
                migrate(self._engine)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection for reading.

        Raises:
            UnavailableError: The database is away ("database-unavailable").
        """
        with passing_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction; on SQLite no other one writes meanwhile.

        Raises:
            UnavailableError: The database is away ("database-unavailable") or has no
                room ("storage-full"); nothing was written.
        """
        with passing_errors(), self._turn, self._engine.begin() as connection:
            yield connection

    def lock(self, c: sa.Connection, name: str, *, shared: bool = False) -> None:
        """Wait until no other transaction holds the lock `name`; hold it to the end.

        On SQLite a write transaction is alone anyway.

        Args:
            c: In a write transaction.
            name: Of the lock.
            shared: Others may hold it too, if they share it.
        """
        if self.shared:
            kind = "_shared" if shared else ""
            take = sa.text(f"SELECT pg_advisory_xact_lock{kind}(:number)")
            c.execute(take, {"number": lock_number(name)})

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """Return an INSERT that may say what happens where such a row is there."""
        return postgresql.insert(table) if self.shared else sqlite.insert(table)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def lock_number(name: str) -> int:
    """Return the number by which PostgreSQL knows a lock of that name."""
    digest = hashlib.sha256(f"privacy-compute/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextmanager
def passing_errors() -> Iterator[None]:
    """Turn what passes, an absent database or a full disk, into typed errors.

    Raises:
        UnavailableError: "database-unavailable" or "storage-full".
    """
    try:
        yield
    except _PASSING as exc:
        text = str(getattr(exc, "orig", exc))
        if any(word in text for word in _DEFECTS):
            raise
        if any(word in text for word in _FULL):
            msg = "the disk of the database is full: the operator has to make room"
            raise UnavailableError(msg, code="storage-full") from exc
        msg = "the gateway's database is away: try again in a few seconds"
        raise UnavailableError(msg, code="database-unavailable") from exc
