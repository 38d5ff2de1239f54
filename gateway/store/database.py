"""One database for all that the gateway keeps: a SQLite file, or PostgreSQL.

A SQLite file belongs to one process, so there a write transaction is alone, and nothing
else needs a lock. PostgreSQL is shared by several gateways: writes cross each other,
and whatever must not cross takes a lock by name (`Database.lock`) or locks its rows.

A database that is away, or has no room, is a typed error; see `gateway.store.away`.
"""

import hashlib
import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.away import passing_errors
from gateway.store.migrate import migrate
from privacy.encoding import Json
from privacy.errors import FormatError

BLOBS = "blobs"
"""The lock between those that name blobs, who share it, and those that remove some."""

_CONNECTIONS = 40
"""At most; with PostgreSQL half of them for transactions, half for statements alone."""
_WAL_S = 10.0
_FRESH_S = 5.0
"""A connection that was used so lately is not asked whether it still is one."""
_POSTGRES_SESSION = {
    "lock_timeout": "10s",  # a gateway that was stopped must not stop the others:
    "idle_in_transaction_session_timeout": "30s",  # what it holds is given back
    "statement_timeout": "60s",
}


def sqlite_engine(path: Path) -> sa.Engine:
    """Return an engine for a database file, made if absent, readable by us only.

    `synchronous=NORMAL` in WAL mode loses no committed transaction when the process is
    killed; after a power cut the last ones may be missing.
    """
    path.touch(mode=0o600)
    engine = sa.create_engine(
        f"sqlite:///{path}",
        pool_size=_CONNECTIONS // 2,
        max_overflow=_CONNECTIONS // 2,
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA busy_timeout=30000")
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Change a new file's journal; SQLite does not wait for another that does so."""
    end = time.monotonic() + _WAL_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def postgres_engine(url: str, *, autocommit: bool = False) -> sa.Engine:
    """Return an engine for a PostgreSQL database.

    Args:
        url: Its address.
        autocommit: Each statement is a transaction by itself.

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
    level: Json = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
    engine = sa.create_engine(
        parsed,
        **(level if autocommit else {}),
        hide_parameters=True,
        pool_size=_CONNECTIONS // 4,
        max_overflow=_CONNECTIONS // 4,
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "options": options},
    )
    _ask_old_connections(engine)
    return engine


def _ask_old_connections(engine: sa.Engine) -> None:
    """Have connections found out that were lost while nobody used them.

    `pool_pre_ping` asks at every checkout, which is a round trip more for each
    transaction. One that is lost between two uses in a row fails once; SQLAlchemy
    then drops all that are older than that failure.
    """

    @sa.event.listens_for(engine, "checkin")
    def _note(_connection: object, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def _ask(connection: Any, record: Any, _proxy: object) -> None:
        used_at = record.info.get("used_at", math.inf)  # if never, it is new
        if time.monotonic() - used_at < _FRESH_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as exc:
            raise sa.exc.DisconnectionError from exc


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
            StoreAwayError: It is not there.
            UnavailableError: It is newer than this program.
            FormatError: The address is none.
        """
        self.shared = isinstance(where, str)
        self._engine = self._reader = database_engine(where)
        if isinstance(where, str):  # a statement alone needs no BEGIN and ROLLBACK
            self._reader = postgres_engine(where, autocommit=True)
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
            StoreAwayError: The database is away ("database-unavailable").
        """
        with passing_errors(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction; on SQLite no other one writes meanwhile.

        Raises:
            StoreAwayError: The database is away ("database-unavailable") or has no
                room ("storage-full"); nothing was written.
        """
        with passing_errors(), self._turn, self._engine.begin() as connection:
            yield connection

    @contextmanager
    def statement(self) -> Iterator[sa.Connection]:
        """Give a connection for one statement that writes, a transaction by itself.

        Raises:
            StoreAwayError: As for `write`.
        """
        if self.shared:
            with self.read() as connection:
                yield connection
        else:
            with self.write() as connection:
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
        self._reader.dispose()


def lock_number(name: str) -> int:
    """Return the number by which PostgreSQL knows a lock of that name."""
    digest = hashlib.sha256(f"privacy-compute/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
