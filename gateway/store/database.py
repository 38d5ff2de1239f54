"""SQLite as both our store and DBOS use it: WAL, short transactions, one writer."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gateway.store.tables import metadata

_SUBSEC = (3, 42)
"""DBOS asks for `unixepoch('subsec')` wherever Python is 3.12, but SQLite knows it from
3.42 on, and the two come apart: Debian 12 has SQLite 3.40."""


def _unixepoch(when: str) -> float | None:
    return time.time() if when == "subsec" else None


def sqlite_engine(path: Path) -> sa.Engine:
    """Return an engine for a database file, made if absent, readable by us only.

    `synchronous=NORMAL` in WAL mode loses no committed transaction when the process is
    killed; after a power cut the last ones may be missing.
    """
    path.touch(mode=0o600)
    engine = sa.create_engine(
        f"sqlite:///{path}", pool_size=20, max_overflow=20, hide_parameters=True
    )

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


class Database:
    """Our tables in one file; thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open the file and make missing tables."""
        self._engine = sqlite_engine(path)
        self._write_lock = threading.Lock()  # cheaper than SQLite's busy loop
        metadata.create_all(self._engine)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection for reading."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction; no other write happens meanwhile."""
        with self._write_lock, self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
