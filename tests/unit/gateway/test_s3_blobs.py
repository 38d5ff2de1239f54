"""Blobs in a bucket, on moto's server: an emulator of S3, over real HTTP."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest

from gateway.opening import open_blobs
from gateway.settings import Settings
from gateway.store.away import StoreAwayError
from gateway.store.blobs import BlobLostError, BlobRemovedError
from gateway.store.database import Database
from gateway.store.parts import Owner, Parts
from gateway.store.s3 import S3Blobs
from gateway.store.uploads import Allowance, Uploads
from privacy.encoding import pack, sha256_hex
from privacy.errors import FormatError, NotFoundError
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway
from tests.support.postgres import migrated

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # botocore's own
]
CONTENT = b"ciphertext" * 1000
DIGEST = sha256_hex(CONTENT)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return a bucket's address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="blobs")
        yield "s3://blobs/some/prefix"
    server.stop()


@pytest.fixture
def blobs(bucket: str, tmp_path: Path) -> S3Blobs:
    return S3Blobs(bucket, tmp_path / "copies", cache_bytes=15_000)


def _given(tmp_path: Path, content: bytes = CONTENT) -> Path:
    file = tmp_path / "given"
    file.write_bytes(content)
    return file


def _age(file: Path) -> None:
    os.utime(file, (time.time() - 9000,) * 2)


def _keep(blobs: S3Blobs, file: Path, sha256: str) -> None:
    blobs.bring(file, sha256)
    blobs.keep(file, sha256)


def test_a_kept_blob_is_had_by_every_machine(
    blobs: S3Blobs, bucket: str, tmp_path: Path
):
    other = S3Blobs(bucket, tmp_path / "other", cache_bytes=1)
    assert not other.has(DIGEST, len(CONTENT))
    _keep(blobs, _given(tmp_path), DIGEST)
    assert not (tmp_path / "given").exists()
    for store in (blobs, other):
        assert store.has(DIGEST, len(CONTENT))
        assert not store.has(DIGEST, 1) or store is other
        assert store.fetch(DIGEST).read_bytes() == CONTENT
        assert store.fetch(DIGEST).stat().st_mode & 0o077 == 0
        assert store.small(DIGEST) == CONTENT
    assert blobs.older_than(-60) == {DIGEST}
    assert blobs.older_than(60) == set()
    assert other.remove({DIGEST, "0" * 64}) == 2
    with pytest.raises(NotFoundError):
        other.fetch(DIGEST)


def test_a_blob_removed_between_upload_and_naming_is_uploaded_again(
    blobs: S3Blobs,
    bucket: str,
    tmp_path: Path,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
):
    brought = []

    def bring(self: S3Blobs, file: Path, sha256: str) -> None:
        real(self, file, sha256)
        brought.append(sha256)
        if len(brought) == 1:
            self.remove({sha256})  # by another gateway

    real = S3Blobs.bring
    monkeypatch.setattr(S3Blobs, "bring", bring)
    allowance = Allowance(max_bytes=1 << 20, quota_bytes=1 << 20, ttl_s={"blob": 60})
    uploads = Uploads(database, blobs, Parts(tmp_path / "uploads"), allowance)
    uploads.own_bytes(CONTENT, Owner("a", "blob", DIGEST))
    assert brought == [DIGEST, DIGEST]
    other = S3Blobs(bucket, tmp_path / "other", cache_bytes=1)
    assert other.fetch(DIGEST).read_bytes() == CONTENT
    blobs.remove({DIGEST})


def test_objects_of_others_in_the_bucket_are_left_alone(
    blobs: S3Blobs, tmp_path: Path, database: Database
):
    others = [f"some/prefix/{name}" for name in ("README", f"deeper/{DIGEST}")]
    client = boto3.client("s3")
    for key in others:
        client.put_object(Bucket="blobs", Key=key, Body=b"not ours")
    blobs.bring(_given(tmp_path), DIGEST)  # nobody names it
    allowance = Allowance(max_bytes=1 << 20, quota_bytes=1 << 20, ttl_s={"blob": 60})
    uploads = Uploads(database, blobs, Parts(tmp_path / "uploads"), allowance)
    assert uploads.remove_lost_files(older_than_s=-60) == 1
    left = client.list_objects_v2(Bucket="blobs")["Contents"]
    assert {entry["Key"] for entry in left} == set(others)
    for key in others:
        client.delete_object(Bucket="blobs", Key=key)


def test_no_upload_is_part_of_a_transaction_that_names_its_blob(
    blobs: S3Blobs, tmp_path: Path
):
    file = _given(tmp_path)
    with pytest.raises(BlobRemovedError):
        blobs.keep(file, DIGEST)
    assert file.exists()
    assert blobs.older_than(-60) == set()


def test_a_blob_of_a_transaction_that_failed_is_kept_again(
    blobs: S3Blobs, tmp_path: Path
):
    file = _given(tmp_path)
    _age(file)
    _keep(blobs, file, DIGEST)
    assert not file.exists()
    assert blobs.trim(in_use=(), gone={DIGEST}) == 0  # nothing names it yet
    _age(tmp_path / "copies" / DIGEST)  # the database is away for long
    blobs.bring(file, DIGEST)
    assert blobs.trim(in_use=(), gone={DIGEST}) == 0
    blobs.keep(file, DIGEST)
    assert blobs.fetch(DIGEST).read_bytes() == CONTENT
    _age(tmp_path / "copies" / DIGEST)
    assert blobs.trim(in_use=(), gone={DIGEST}) == 1
    blobs.remove({DIGEST})
    with pytest.raises(BlobLostError):
        blobs.bring(file, DIGEST)


def test_blobs_that_the_bucket_did_not_remove_are_not_taken_for_removed(
    blobs: S3Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _keep(blobs, _given(tmp_path), DIGEST)

    def refuse(**_: Any) -> dict[str, Any]:
        return {"Errors": [{"Key": DIGEST, "Code": "SlowDown"}]}

    with monkeypatch.context() as patched:
        patched.setattr(blobs._brief, "delete_objects", refuse)
        with pytest.raises(StoreAwayError, match="SlowDown"):
            blobs.remove({DIGEST})
    assert blobs.remove({DIGEST}) == 1
    assert blobs.older_than(-60) == set()


def test_a_bucket_that_does_not_answer_holds_up_a_transaction_for_seconds_only(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        blobs = S3Blobs(bucket, tmp_path / "copies", cache_bytes=1)
        began = time.monotonic()
        with pytest.raises(StoreAwayError):
            blobs.remove({DIGEST})
        assert time.monotonic() - began < 9  # others wait 10 s for such a lock


def test_bytes_that_somebody_put_in_a_blobs_place_are_not_taken(
    blobs: S3Blobs, bucket: str, tmp_path: Path
):
    _keep(blobs, _given(tmp_path), DIGEST)
    other = S3Blobs(bucket, tmp_path / "other", cache_bytes=1)
    client = boto3.client("s3")
    client.put_object(Bucket="blobs", Key=f"some/prefix/{DIGEST}", Body=CONTENT[::-1])
    with pytest.raises(NotFoundError):
        other.fetch(DIGEST)
    assert not list((tmp_path / "other").iterdir())
    assert not other.has(DIGEST, len(CONTENT))  # so it is uploaded again
    _keep(other, _given(tmp_path), DIGEST)
    assert other.fetch(DIGEST).read_bytes() == CONTENT
    blobs.remove({DIGEST})


def test_copies_unused_for_long_make_room_unless_a_job_needs_them(
    blobs: S3Blobs, tmp_path: Path
):
    digests = []
    for i in range(4):
        content = bytes([i]) * 10_000
        digests.append(sha256_hex(content))
        _keep(blobs, _given(tmp_path, content), digests[-1])
        os.utime(tmp_path / "copies" / digests[-1], (time.time() - 9000 + i,) * 2)
    blobs.fetch(digests[3])
    assert blobs.copies() == set(digests)
    assert blobs.trim(in_use={digests[0]}, gone=()) == 2
    left = {path.name for path in (tmp_path / "copies").iterdir()}
    assert left == {digests[0], digests[3]}
    assert blobs.fetch(digests[1]).read_bytes() == b"\1" * 10_000
    blobs.remove(digests)


def test_a_bucket_that_cannot_be_reached_is_a_typed_error_that_passes(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    blobs = S3Blobs(bucket, tmp_path / "copies", cache_bytes=1)
    for call in (
        lambda: blobs.fetch(DIGEST),
        lambda: blobs.has(DIGEST, 1),
        lambda: blobs.keep(_given(tmp_path), DIGEST),
    ):
        with pytest.raises(StoreAwayError) as refusal:
            call()
        assert refusal.value.code == "blobs-unavailable"


@pytest.mark.parametrize("url", ["blobs", "s3://", "https://blobs", "s3://b?x=1"])
def test_an_address_that_is_no_bucket_is_refused(url: str, tmp_path: Path):
    with pytest.raises(FormatError):
        S3Blobs(url, tmp_path, cache_bytes=1)


def test_blobs_are_in_one_place(tmp_path: Path):
    with pytest.raises(FormatError, match="one place"):
        open_blobs(Settings(data_dir=tmp_path, blobs_dir=tmp_path, blobs_s3="s3://b"))


def test_two_gateways_share_a_bucket_and_leave_nothing_in_it(
    bucket: str, tmp_path: Path
):
    write_bundle(tmp_path / "models", needs_keys=False)
    url = migrated()
    with ExitStack() as stack:
        gateways = [
            stack.enter_context(
                ThreadGateway.fake(
                    tmp_path,
                    data_dir=tmp_path / name,
                    blobs_s3=bucket,
                    database_url=url,
                    receipt_key=tmp_path / "receipt.key",
                    node_name=name,
                )
            )
            for name in ("one", "two")
        ]
        one = stack.enter_context(gateways[0].client())
        two = stack.enter_context(gateways[1].client(gateways[0].admin_key))
        order = {"do": "echo"}
        job = one.order(order, wait=30).json()
        assert job["status"] == "succeeded"
        assert two.get(job["links"]["result"]).json()["echo"] == order
        assert two.get(job["links"]["evidence"]).content == b"fake proof"
        assert two.order(order, wait=30).json()["status"] == "succeeded"
        for listed in one.get("/v1/jobs").json()["jobs"]:
            two.delete(listed["links"]["result"]).raise_for_status()
        two.delete(f"/v1/blobs/{job['input_sha256']}").raise_for_status()
        sealed = pack([bytes(32), bytes(32), bytes(32), b"ciphertext"])
        for_contract = f"/v1/contract-inputs/{'1' * 64}?model=demo&sealed=true"
        assert one.put(for_contract, content=sealed).status_code == 201
        assert two.get(for_contract).content == sealed
        two.delete(for_contract).raise_for_status()
        stores = [gateway.app.state.gateway for gateway in gateways]
        assert stores[0].blobs.older_than(-60) == set()
        # Copies that the other one has are not served, and go.
        assert stores[0].blobs.copies()
        for api in (one, two):
            assert api.get(job["links"]["result"]).json()["code"] == "result-gone"
            assert api.head(f"/v1/blobs/{job['input_sha256']}").status_code == 404
            assert api.get(for_contract).status_code == 404
        for store in stores:
            for sha256 in store.blobs.copies():
                _age(store.settings.data_dir / "blobs" / "copies" / sha256)
            store.uploads.trim_copies()
            assert not store.blobs.copies()
