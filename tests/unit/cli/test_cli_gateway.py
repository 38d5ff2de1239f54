"""`privacy gateway migrate`."""

import json
import sqlite3
from contextlib import closing

import pytest

from gateway.lock import FolderLock
from gateway.store.database import Database
from privacy.cli import run
from privacy.errors import UnavailableError


@pytest.fixture
def data(tmp_path):
    Database(tmp_path / "gateway.sqlite").close()
    return tmp_path


def _revision(data) -> list[str]:
    with closing(sqlite3.connect(data / "gateway.sqlite")) as connection:
        rows = connection.execute("SELECT version_num FROM alembic_version")
        return [number for (number,) in rows]


def test_migrate_goes_back_and_forth(data, capsys):
    (newest,) = _revision(data)
    words = ["gateway", "migrate", "--data", str(data), "--json"]
    assert run([*words, "--to", "0001"]) == 0
    assert json.loads(capsys.readouterr().out) == {"before": newest, "now": "0001"}
    assert _revision(data) == ["0001"]
    assert run(words) == 0
    assert _revision(data) == [newest]


def test_migrate_refuses_the_data_folder_of_a_gateway_that_runs(data, capsys):
    lock = FolderLock(data)
    try:
        code = run(["gateway", "migrate", "--data", str(data), "--json"])
    finally:
        lock.release()
    assert code == UnavailableError.exit_code
    assert "data-dir-locked" in capsys.readouterr().out
