import os
from pathlib import Path

import pytest

from gateway.store.blobs import BlobLostError, Blobs
from privacy.encoding import sha256_hex
from privacy.errors import FormatError

CONTENT = b"ciphertext" * 1000
DIGEST = sha256_hex(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def test_a_workers_file_is_moved_under_its_digest(store: Blobs, tmp_path: Path):
    (tmp_path / "output").write_bytes(CONTENT)
    store.keep(tmp_path / "output", DIGEST)
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert store.path(DIGEST).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "output").exists()


def test_a_blob_is_here_when_it_is_whole(store: Blobs, tmp_path: Path):
    assert not store.has(DIGEST, len(CONTENT))
    (tmp_path / "output").write_bytes(CONTENT)
    store.keep(tmp_path / "output", DIGEST)
    assert store.has(DIGEST, len(CONTENT))
    assert not store.has(DIGEST, len(CONTENT) + 1)
    assert store.older_than(0) == {DIGEST}
    assert store.older_than(60) == set()
    assert store.remove([DIGEST]) == 1
    assert store.remove([DIGEST]) == 0


def test_a_file_of_a_transaction_that_is_tried_again_is_not_taken_for_lost(
    store: Blobs, tmp_path: Path
):
    output = tmp_path / "output"
    output.write_bytes(CONTENT)
    store.keep(output, DIGEST)  # in a transaction that fails
    os.utime(store.path(DIGEST), (1, 1))  # the database is away for long
    assert store.older_than(60) == {DIGEST}
    store.bring(output, DIGEST)
    assert store.older_than(60) == set()
    store.keep(output, DIGEST)
    assert store.path(DIGEST).read_bytes() == CONTENT


def test_a_moved_file_that_was_removed_is_said_to_be_lost(store: Blobs, tmp_path: Path):
    output = tmp_path / "output"
    output.write_bytes(CONTENT)
    store.keep(output, DIGEST)  # in a transaction that fails
    store.remove([DIGEST])  # another job of these bytes was deleted
    for again in (store.bring, store.keep):
        with pytest.raises(BlobLostError):
            again(output, DIGEST)


def test_a_digest_is_no_way_out_of_the_folder(store: Blobs):
    with pytest.raises(FormatError) as refusal:
        store.path("../../etc/passwd")
    assert refusal.value.code == "bad-digest"
