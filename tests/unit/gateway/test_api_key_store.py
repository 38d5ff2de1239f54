import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.store import api_keys as store
from gateway.store.api_keys import ApiKeys
from gateway.store.database import Database
from privacy import clock
from privacy.errors import AuthError, ConflictError, NotFoundError
from tests.support.postgres import migrated


@pytest.fixture
def database(tmp_path: Path):
    database = Database(tmp_path / "db.sqlite")
    yield database
    database.close()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch):
    """Return a function that lets seconds pass."""
    passed = [0.0]
    monkeypatch.setattr(
        store, "now", lambda plus_s=0.0: clock.now(plus_s=passed[0] + plus_s)
    )
    began = time.monotonic
    monkeypatch.setattr(store.time, "monotonic", lambda: began() + passed[0])

    def let(seconds: float) -> None:
        passed[0] += seconds

    return let


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


def test_an_expired_key_says_so(database: Database, passes):
    keys = ApiKeys(database)
    _, text = keys.create(tenant="a", scopes=["admin"], expires_in_s=50)
    keys.authenticate(text)
    passes(51)
    with pytest.raises(AuthError) as refusal:
        keys.authenticate(text)
    assert refusal.value.code == "key-expired"


def test_a_revoked_key_is_refused_also_after_a_restart(database: Database):
    keys = ApiKeys(database)
    key, text = keys.create(tenant="a", scopes=["admin"])
    keys.revoke(key.id)
    keys.revoke(key.id)
    for known in (keys, ApiKeys(database)):
        with pytest.raises(AuthError):
            known.authenticate(text)


def test_revoking_an_unknown_key_is_an_error(database: Database):
    with pytest.raises(NotFoundError):
        ApiKeys(database).revoke("key_none")


def test_the_first_key_is_made_once(database: Database):
    keys = ApiKeys(database)
    text = keys.bootstrap()
    assert text
    assert keys.authenticate(text).scopes == ["admin"]
    assert ApiKeys(database).bootstrap() is None


def test_of_gateways_that_start_together_one_makes_the_first_key():
    database, start = Database(migrated()), threading.Barrier(6)

    def bootstrap(_: int) -> str | None:
        start.wait()
        return ApiKeys(database).bootstrap()

    with ThreadPoolExecutor(6) as gateways:
        made = [text for text in gateways.map(bootstrap, range(6)) if text]
    assert len(made) == len(ApiKeys(database).all()) == 1
    database.close()


def test_a_rotated_key_has_a_new_text_and_the_old_one_works_a_while(
    database: Database, passes
):
    keys = ApiKeys(database)
    key, old = keys.create(tenant="a", scopes=["jobs:read"])
    rotated, new = keys.rotate(key.id, overlap_s=40)
    assert rotated.id == key.id
    assert rotated.previous_until
    for text in (old, new):
        assert keys.authenticate(text).id == key.id
    passes(41)
    assert keys.authenticate(new).id == key.id
    with pytest.raises(AuthError):
        keys.authenticate(old)


def test_rotating_again_ends_the_oldest_text_at_once(database: Database):
    keys = ApiKeys(database)
    key, first = keys.create(tenant="a", scopes=["jobs:read"])
    _, second = keys.rotate(key.id, overlap_s=60)
    _, third = keys.rotate(key.id, overlap_s=60)
    for text in (second, third):
        keys.authenticate(text)
    with pytest.raises(AuthError):
        keys.authenticate(first)
    _, fourth = keys.rotate(key.id, overlap_s=0)
    for text in (second, third):
        with pytest.raises(AuthError):
            keys.authenticate(text)
    assert keys.authenticate(fourth).id == key.id


def test_rotation_may_give_a_new_time_and_keeps_the_old_one_else(database: Database):
    keys = ApiKeys(database)
    key, _ = keys.create(tenant="a", scopes=["jobs:read"], expires_in_s=100)
    same, _ = keys.rotate(key.id, overlap_s=0)
    assert same.expires_at == key.expires_at
    longer, _ = keys.rotate(key.id, overlap_s=0, expires_in_s=1000)
    assert longer.expires_at > key.expires_at
    assert keys.find(key.id) == longer


def test_a_revoked_key_is_revoked_with_both_its_texts_and_not_rotated(
    database: Database,
):
    keys = ApiKeys(database)
    key, old = keys.create(tenant="a", scopes=["jobs:read"])
    _, new = keys.rotate(key.id, overlap_s=60)
    keys.revoke(key.id)
    for text in (old, new):
        with pytest.raises(AuthError):
            keys.authenticate(text)
    with pytest.raises(ConflictError) as refusal:
        keys.rotate(key.id, overlap_s=60)
    assert refusal.value.code == "key-revoked"
    with pytest.raises(NotFoundError):
        keys.rotate("key_none", overlap_s=60)


def test_another_gateways_revocation_is_seen_within_two_seconds(
    database: Database, passes
):
    here, there = ApiKeys(database), ApiKeys(database)
    key, text = here.create(tenant="a", scopes=["jobs:read"])
    assert here.recent(text) is None
    here.authenticate(text)
    assert here.recent(text) == key
    there.revoke(key.id)
    passes(1.9)
    assert here.recent(text) is None
    with pytest.raises(AuthError):
        here.authenticate(text)


def test_a_revocation_here_is_seen_at_once(database: Database):
    keys = ApiKeys(database)
    key, text = keys.create(tenant="a", scopes=["jobs:read"])
    keys.authenticate(text)
    keys.revoke(key.id)
    assert keys.recent(text) is None


def test_a_remembered_key_still_expires(database: Database, passes, monkeypatch):
    keys = ApiKeys(database)
    _, text = keys.create(tenant="a", scopes=["jobs:read"], expires_in_s=60)
    keys.authenticate(text)
    monkeypatch.setattr(store, "FRESH_S", 1000)
    passes(61)
    with pytest.raises(AuthError) as refusal:
        keys.recent(text)
    assert refusal.value.code == "key-expired"


def test_a_keys_last_use_is_noted_once_a_minute(database: Database, passes):
    keys = ApiKeys(database)
    key, text = keys.create(tenant="a", scopes=["jobs:read"])
    assert keys.find(key.id).last_used_at is None
    keys.authenticate(text)
    noted = keys.find(key.id).last_used_at
    assert noted
    passes(50)
    keys.authenticate(text)
    assert keys.find(key.id).last_used_at == noted
    passes(11)
    keys.authenticate(text)
    assert keys.find(key.id).last_used_at > noted
