import sqlite3
import time
from pathlib import Path

import pytest

from gateway.store.api_keys import ApiKeys
from gateway.store.database import Database
from privacy.errors import AuthError, NotFoundError


@pytest.fixture
def database(tmp_path: Path):
    database = Database(tmp_path / "db.sqlite")
    yield database
    database.close()


def test_a_key_is_known_by_its_text_and_by_no_other(database: Database):
    keys = ApiKeys(database)
    key, text = keys.create(tenant="a", scopes=["jobs:read"])
    assert keys.authenticate(text) == key
    for wrong in (text[:-1] + ("A" if text[-1] != "A" else "E"), text[3:], "", "pk_"):
        with pytest.raises(AuthError) as refusal:
            keys.authenticate(wrong)
        assert refusal.value.code == "unauthenticated"


def test_the_text_of_a_key_is_nowhere_in_the_database(
    database: Database, tmp_path: Path
):
    _, text = ApiKeys(database).create(tenant="a", scopes=["admin"])
    database.close()
    dump = "\n".join(sqlite3.connect(tmp_path / "db.sqlite").iterdump())
    assert "key_" in dump
    assert text.removeprefix("pk_") not in dump


def test_keys_survive_a_restart(database: Database):
    key, text = ApiKeys(database).create(tenant="a", scopes=["jobs:read"])
    assert ApiKeys(database).authenticate(text) == key


def test_an_expired_key_says_so(database: Database):
    keys = ApiKeys(database)
    _, text = keys.create(tenant="a", scopes=["admin"], expires_in_s=0.05)
    keys.authenticate(text)
    time.sleep(0.08)
    with pytest.raises(AuthError) as refusal:
        keys.authenticate(text)
    assert refusal.value.code == "key-expired"


def test_a_revoked_key_is_refused_also_after_a_restart(database: Database):
    keys = ApiKeys(database)
    key, text = keys.create(tenant="a", scopes=["admin"])
    keys.revoke(key.id)
    keys.revoke(key.id)
    for store in (keys, ApiKeys(database)):
        with pytest.raises(AuthError):
            store.authenticate(text)


def test_revoking_an_unknown_key_is_an_error(database: Database):
    with pytest.raises(NotFoundError):
        ApiKeys(database).revoke("key_none")


def test_the_first_key_is_made_once(database: Database):
    keys = ApiKeys(database)
    text = keys.bootstrap()
    assert text
    assert keys.authenticate(text).scopes == ["admin"]
    assert ApiKeys(database).bootstrap() is None
