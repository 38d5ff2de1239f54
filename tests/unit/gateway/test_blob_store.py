import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.blobs import Blobs
from gateway.store.database import Database
from privacy.encoding import sha256_hex
from privacy.errors import (
    FormatError,
    LimitError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
)

CONTENT = b"ciphertext" * 1000
DIGEST = sha256_hex(CONTENT)


@pytest.fixture
def store(tmp_path: Path):
    database = Database(tmp_path / "db.sqlite")
    yield Blobs(database, tmp_path / "blobs")
    database.close()


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 999):
        yield content[at : at + 999]


def _put(store: Blobs, content: bytes, *, tenant: str = "a", **other: object) -> bool:
    sha256 = str(other.get("sha256", sha256_hex(content)))
    limit = int(str(other.get("max_bytes", 1 << 20)))
    receiving = store.receive(_chunks(content), sha256=sha256, max_bytes=limit)
    part, size = asyncio.run(receiving)
    assert size == len(content)
    return store.own(part, tenant=tenant, kind="blob", sha256=sha256)


def test_an_upload_is_kept_under_its_digest_and_is_new_once(store: Blobs):
    assert _put(store, CONTENT) is True
    assert _put(store, CONTENT) is False
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert store.size(tenant="a", kind="blob", sha256=DIGEST) == len(CONTENT)
    assert store.path(DIGEST).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "changes", "family", "code"),
    [
        (CONTENT, {"sha256": sha256_hex(b"other")}, FormatError, "digest-mismatch"),
        (CONTENT, {"max_bytes": len(CONTENT) - 1}, LimitError, "too-large"),
        (b"", {}, FormatError, "empty-upload"),
        (CONTENT, {"sha256": "../../etc/passwd"}, FormatError, "bad-digest"),
    ],
)
def test_a_refused_upload_leaves_nothing_behind(
    store: Blobs, tmp_path: Path, content, changes, family: type[PrivacyError], code
):
    with pytest.raises(family) as refusal:
        _put(store, content, **changes)
    assert refusal.value.code == code
    assert [p for p in (tmp_path / "blobs").rglob("*") if p.is_file()] == []


def test_an_upload_of_exactly_the_limit_is_taken(store: Blobs):
    assert _put(store, CONTENT, max_bytes=len(CONTENT))


def test_a_blob_is_unknown_to_tenants_that_did_not_upload_it(store: Blobs):
    _put(store, CONTENT, tenant="a")
    with pytest.raises(NotFoundError):
        store.size(tenant="b", kind="blob", sha256=DIGEST)
    assert _put(store, CONTENT, tenant="b") is True


def test_an_input_cannot_serve_as_keys(store: Blobs):
    _put(store, CONTENT)
    with pytest.raises(NotFoundError) as refusal:
        store.size(tenant="a", kind="keys", sha256=DIGEST)
    assert refusal.value.code == "unknown-keys"


def test_half_written_uploads_of_an_earlier_life_are_removed(tmp_path: Path):
    database = Database(tmp_path / "db.sqlite")
    Blobs(database, tmp_path / "blobs")
    (tmp_path / "blobs" / "uploads" / "half").write_bytes(b"half")
    Blobs(database, tmp_path / "blobs")
    database.close()
    assert not (tmp_path / "blobs" / "uploads" / "half").exists()


def test_a_workers_file_is_adopted_under_its_digest(store: Blobs, tmp_path: Path):
    (tmp_path / "output").write_bytes(CONTENT)
    assert store.adopt(tmp_path / "output") == DIGEST
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert not (tmp_path / "output").exists()


def _receive(store: Blobs, chunks: AsyncIterator[bytes]) -> None:
    receiving = store.receive(chunks, sha256=DIGEST, max_bytes=1 << 20)
    asyncio.run(receiving)


def test_an_upload_that_trickles_is_ended_and_leaves_nothing(tmp_path: Path):
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    store = Blobs(Database(tmp_path / "db"), tmp_path / "blobs", patience_s=0.3)
    with pytest.raises(LimitError) as refusal:
        _receive(store, trickle())
    assert refusal.value.code == "upload-too-slow"
    assert list((tmp_path / "blobs" / "uploads").iterdir()) == []


def test_uploads_leave_room_on_the_disk(tmp_path: Path):
    store = Blobs(Database(tmp_path / "db"), tmp_path / "blobs", reserve_bytes=1 << 62)
    with pytest.raises(UnavailableError) as refusal:
        _receive(store, _chunks(CONTENT))
    assert refusal.value.code == "storage-full"
    assert list((tmp_path / "blobs" / "uploads").iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_blob_counts_as_not_uploaded_and_is_healed(store: Blobs, damage: str):
    _put(store, CONTENT)
    if damage == "missing":
        store.path(DIGEST).unlink()
    else:
        store.path(DIGEST).write_bytes(CONTENT[:100])
    with pytest.raises(NotFoundError):
        store.size(tenant="a", kind="blob", sha256=DIGEST)
    _put(store, CONTENT)
    assert store.size(tenant="a", kind="blob", sha256=DIGEST) == len(CONTENT)
    assert store.path(DIGEST).read_bytes() == CONTENT
