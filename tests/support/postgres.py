"""One PostgreSQL for the whole run, and a database of its own for each test."""

import atexit
import itertools
from functools import cache

import pytest

from benchmarks.postgres import Postgres, PostgresMissingError
from gateway.store.database import Database

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


def new_database() -> str:
    """Return the address of an empty database."""
    return server().database(f"test{next(_numbers)}")


@cache
def _template() -> str:
    url = new_database()
    Database(url).close()
    return url.rpartition("/")[2]


def migrated() -> str:
    """Return the address of a database with our tables, which are empty."""
    return server().database(f"test{next(_numbers)}", template=_template())
