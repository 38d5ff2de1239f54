"""SQLite as the gateway and DBOS need it, whatever version Python was built with."""

import time
from pathlib import Path

import sqlalchemy as sa

from gateway.store.database import sqlite_engine


def test_milliseconds_are_known_to_every_sqlite(tmp_path: Path):
    engine = sqlite_engine(tmp_path / "x.sqlite")
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE t (n INTEGER, at INTEGER NOT NULL "
                "DEFAULT (unixepoch('subsec') * 1000))"
            )
        )
        connection.execute(sa.text("INSERT INTO t (n) VALUES (1)"))
        at = connection.execute(sa.text("SELECT at FROM t")).scalar_one()
    engine.dispose()
    assert abs(at / 1000 - time.time()) < 60


def test_the_file_is_private_and_in_wal_mode(tmp_path: Path):
    engine = sqlite_engine(tmp_path / "x.sqlite")
    with engine.connect() as connection:
        mode = connection.execute(sa.text("PRAGMA journal_mode")).scalar_one()
    engine.dispose()
    assert mode == "wal"
    assert (tmp_path / "x.sqlite").stat().st_mode & 0o077 == 0
