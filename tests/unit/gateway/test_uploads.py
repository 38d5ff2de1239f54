from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa

from gateway.store.away import StoreAwayError
from gateway.store.blobs import Blobs
from gateway.store.database import Database
from gateway.store.jobs import Jobs, NewJob, Outcome
from gateway.store.parts import Owner, Parts
from gateway.store.tables import uploads as table
from gateway.store.uploads import Allowance, Uploads
from privacy.clock import now
from privacy.encoding import sha256_hex
from privacy.errors import ConflictError, LimitError, NotFoundError
from tests.support.uploaded import uploaded

CONTENT = b"ciphertext" * 1000
DIGEST = sha256_hex(CONTENT)
TTL = {"keys": 3600.0, "blob": 60.0}


@pytest.fixture
def make(tmp_path: Path, database: Database) -> Callable[..., Uploads]:
    """Return a store; made again, it is the gateway's next life."""

    def make(quota_bytes: int = 25_000) -> Uploads:
        allowance = Allowance(
            max_bytes=1 << 20, quota_bytes=quota_bytes, ttl_s=dict(TTL)
        )
        blobs = Blobs(tmp_path / "blobs")
        parts = Parts(tmp_path / "blobs" / "uploads")
        return Uploads(database, blobs, parts, allowance)

    return make


@pytest.fixture
def store(make: Callable[..., Uploads]) -> Uploads:
    return make()


def put(
    store: Uploads, content: bytes = CONTENT, *, tenant: str = "a", kind: str = "blob"
) -> Owner:
    owner = Owner(tenant, kind, sha256_hex(content))
    part = store.parts._folder / "given.x"
    part.write_bytes(content)
    store.own(part, owner)
    return owner


def on_disk(store: Uploads, owner: Owner) -> bool:
    return store._blobs.path(owner.sha256).exists()


def age(database: Database, seconds: float) -> None:
    with database.write() as c:
        c.execute(sa.update(table).values(used_at=now(plus_s=-seconds)))


def job(database: Database, **more: Any) -> str:
    values = {
        "id": f"job_{sha256_hex(repr(more).encode())[:8]}",
        "tenant": "a",
        "idempotency_key": None,
        "request_sha256": "0" * 64,
        "model": "m",
        "version": "1",
        "model_sha256": "1" * 64,
        "mode": "fhe",
        "simulated": False,
        "input_sha256": "2" * 64,
        "keys_sha256": "",
        "options": {},
        **more,
    }
    new = NewJob(**values)
    uploaded(database, new.input_sha256)
    if new.keys_sha256:
        uploaded(database, new.keys_sha256, kind="keys")
    Jobs(database).accept(new, max_queued=9, max_queued_by_tenant=9)
    return new.id


def finish(database: Database, job_id: str, **outcome: str) -> None:
    done = Outcome("succeeded", **outcome)
    Jobs(database).finish(job_id, done, lambda *_: b"receipt")


def test_an_upload_is_kept_under_its_digest_and_is_new_once(store: Uploads):
    owner = Owner("a", "blob", DIGEST)
    for new in (True, False):
        part = store.parts._folder / "given.x"
        part.write_bytes(CONTENT)
        assert store.own(part, owner) is new
    path = store._blobs.path(DIGEST)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.get(owner).bytes == len(CONTENT)


def test_an_upload_is_unknown_to_other_tenants_and_as_another_kind(store: Uploads):
    put(store)
    for owner in (Owner("b", "blob", DIGEST), Owner("a", "keys", DIGEST)):
        with pytest.raises(NotFoundError) as refusal:
            store.get(owner)
        assert refusal.value.code == f"unknown-{owner.kind}"


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_blob_counts_as_not_uploaded_and_is_healed(
    store: Uploads, damage: str
):
    owner, path = put(store), store._blobs.path(DIGEST)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(CONTENT[:100])
    with pytest.raises(NotFoundError):
        store.get(owner)
    put(store)
    assert store.get(owner).bytes == len(CONTENT)


def test_a_tenants_quota_counts_everything_it_keeps(
    store: Uploads, make: Callable[..., Uploads]
):
    put(store)
    put(store, b"k" * 10_000, kind="keys")
    assert store.used_bytes("a") == 20_000
    for life in (store, make()):
        with pytest.raises(LimitError) as refusal:
            put(life, b"x" * 5_001)
        assert refusal.value.code == "quota-exceeded"
        assert "delete" in refusal.value.message
    put(store, b"x" * 5_000)
    put(store)  # again: no byte more
    put(store, b"x" * 25_000, tenant="b")


def test_the_room_is_what_the_quota_leaves(store: Uploads):
    owner = put(store)
    assert store.room(Owner("a", "blob", "0" * 64)).left_bytes == 15_000
    assert store.room(owner).left_bytes == 25_000
    assert store.room(Owner("b", "blob", "0" * 64)).left_bytes == 25_000
    (store.parts._folder / f"{Owner('a', 'keys', '0' * 64).name}.x").write_bytes(
        bytes(4_000)
    )
    room = store.room(Owner("a", "blob", "1" * 64))
    assert room.left_bytes == 11_000
    with pytest.raises(LimitError) as refusal:
        room.check(11_001)
    assert refusal.value.code == "quota-exceeded"


def test_what_is_refused_at_the_last_moment_leaves_nothing(store: Uploads):
    with pytest.raises(LimitError):
        put(store, b"x" * 25_001)
    assert [p for p in store._blobs._folder.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("step", ["bring", "keep"])
def test_what_cannot_be_kept_now_leaves_nothing_and_can_be_sent_again(
    store: Uploads, monkeypatch: pytest.MonkeyPatch, step: str
):
    def away(*_: object) -> NoReturn:
        raise StoreAwayError("the bucket is away")

    with monkeypatch.context() as patched:
        patched.setattr(Blobs, step, away)
        with pytest.raises(StoreAwayError):
            put(store)
    assert [p for p in store._blobs._folder.rglob("*") if p.is_file()] == []
    assert store.get(put(store)).bytes == len(CONTENT)


def test_deleting_frees_the_quota_and_the_disk(store: Uploads):
    owner = put(store)
    store.delete(owner)
    assert store.used_bytes("a") == 0
    assert not on_disk(store, owner)
    with pytest.raises(NotFoundError):
        store.delete(owner)


def test_a_file_stays_while_another_tenant_has_it(store: Uploads):
    mine, theirs = put(store), put(store, tenant="b")
    store.delete(mine)
    assert on_disk(store, theirs)
    store.delete(theirs)
    assert not on_disk(store, theirs)


@pytest.mark.parametrize("column", ["input_sha256", "keys_sha256"])
def test_what_an_unfinished_job_needs_cannot_be_deleted(
    store: Uploads, database: Database, column: str
):
    owner = put(store)
    job_id = job(database, **{column: DIGEST})
    with pytest.raises(ConflictError) as refusal:
        store.delete(owner)
    assert refusal.value.code == "upload-in-use"
    age(database, 1e6)
    assert store.sweep() == 0
    finish(database, job_id)
    assert store.sweep() == 1
    assert not on_disk(store, owner)


def test_a_file_that_is_a_jobs_output_stays(store: Uploads, database: Database):
    owner = put(store)
    finish(database, job(database), output_sha256=DIGEST)
    store.delete(owner)
    assert on_disk(store, owner)


def test_uploads_expire_after_their_last_use(store: Uploads, database: Database):
    keys, blob = put(store, kind="keys"), put(store, b"blob")
    age(database, 120)  # longer than inputs are kept, not keys
    with pytest.raises(NotFoundError):
        store.get(blob)
    assert store.of("a", "blob") == []
    assert store.sweep() == 1
    assert (on_disk(store, keys), on_disk(store, blob)) == (True, False)
    age(database, 3000)
    store.use(keys)
    age_of_keys = store.get(keys).used_at
    assert age_of_keys > now(plus_s=-60)
    assert store.expires_at(store.get(keys)) > now(plus_s=3500)
    age(database, 3601)
    with pytest.raises(NotFoundError):
        store.use(keys)
    assert store.sweep() == 1
    assert store.used_bytes("a") == 0


def test_the_sweep_removes_what_a_crash_left(store: Uploads, database: Database):
    kept, output = put(store), store._blobs.path("3" * 64)
    lost = store._blobs.path("4" * 64)
    for path in (output, lost):
        path.parent.mkdir()
        path.write_bytes(b"x")
    finish(database, job(database), output_sha256="3" * 64)
    assert store.remove_lost_files() == 0
    assert store.remove_lost_files(older_than_s=0) == 1
    assert on_disk(store, kept)
    assert output.exists()
    assert not lost.exists()


def test_uploads_are_listed_newest_first(store: Uploads):
    put(store, b"one")
    put(store, b"two")
    put(store, b"keys", kind="keys")
    put(store, b"other", tenant="b")
    listed = store.of("a", "blob")
    assert {u.sha256 for u in listed} == {sha256_hex(b"one"), sha256_hex(b"two")}
    assert [u.created_at for u in listed] == sorted(
        (u.created_at for u in listed), reverse=True
    )


def test_an_upload_deleted_while_a_job_is_taken_is_unknown(
    store: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch
):
    owner = put(store)
    age(database, 30)  # so long ago that its time begins anew
    found = store.get(owner)
    store.delete(owner)
    monkeypatch.setattr(store, "get", lambda _: found)  # it was there a moment before
    with pytest.raises(NotFoundError) as refusal:
        store.use(owner)
    assert refusal.value.code == "unknown-blob"
