"""One PostgreSQL for the whole run, and a database of its own for each test."""

import atexit
import itertools
from contextlib import closing
from functools import cache

import pytest

from benchmarks.postgres import Postgres, PostgresMissingError
from gateway.store.database import Database
from gateway.store.tables import metadata

_numbers = itertools.count()


@cache
def server() -> Postgres:
    """Return the run's server, started by whoever asks first."""
    try:
        running = Postgres()
    except PostgresMissingError as exc:
        pytest.skip(str(exc))
    running.__enter__()
    atexit.register(running.__exit__)
    return running


@cache
def _emptied() -> str:
    return new_database()


def emptied() -> str:
    """Return the address of a database with our tables, which are empty."""
    url = _emptied()
    with closing(Database(url)) as database, database.write() as c:
        names = ", ".join(metadata.tables)
        c.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")
    return url


def new_database() -> str:
    """Return the address of an empty database."""
    return server().database(f"test{next(_numbers)}")
