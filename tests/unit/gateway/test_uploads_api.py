"""Uploads over HTTP: broken off and gone on with, quotas, expiry, deletion."""

import os
import socket
from pathlib import Path

from privacy.encoding import sha256_hex
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway, wait_until


def break_off(gateway: ThreadGateway, path: str, content: bytes, total: int) -> None:
    with socket.create_connection(("127.0.0.1", gateway.settings.port)) as connection:
        head = (
            f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {total}\r\n"
            f"Authorization: Bearer {gateway.admin_key}\r\n\r\n"
        )
        connection.sendall(head.encode() + content)


def test_an_upload_that_broke_off_goes_on_where_it_stopped(tmp_path: Path):
    content = os.urandom(3 << 20)
    path = f"/v1/keys/{sha256_hex(content)}"
    write_bundle(tmp_path / "models")
    with (
        ThreadGateway.fake(tmp_path) as gateway,
        gateway.client() as api,
        gateway.client(gateway.new_key("jobs:write", tenant="other")) as stranger,
    ):
        break_off(gateway, path, content[: 2 << 20], len(content))
        wait_until(lambda: api.head(path).status_code == 204)
        head = api.head(path)
        assert head.headers["upload-complete"] == "?0"
        offset = int(head.headers["upload-offset"])
        assert 1 << 20 <= offset <= 2 << 20
        assert stranger.head(path).status_code == 404
        for at in (offset - 1, offset + 1):
            wrong = {"Upload-Offset": str(at)}
            refused = api.patch(path, content=content[at:], headers=wrong)
            assert (refused.status_code, refused.json()["code"]) == (
                409,
                "upload-offset",
            )
            assert api.head(path).headers["upload-offset"] == str(offset)
        rest = {"Upload-Offset": str(offset)}
        done = api.patch(path, content=content[offset:], headers=rest)
        assert (done.status_code, done.json()["bytes"]) == (201, len(content))
        assert api.head(path).headers["upload-complete"] == "?1"
        assert gateway.app.state.gateway.uploads.used_bytes("default") == len(content)


def test_a_tenant_that_used_up_its_quota_must_delete_something(tmp_path: Path):
    write_bundle(tmp_path / "models")
    settings = {"max_bytes_by_tenant": 1000, "max_upload_bytes": 10_000}
    with ThreadGateway.fake(tmp_path, **settings) as gateway, gateway.client() as api:
        first = api.upload(b"a" * 600)
        keys = b"b" * 401
        for content in (keys, iter([keys[:200], keys[200:]])):  # announced or not
            full = api.put(f"/v1/keys/{sha256_hex(keys)}", content=content)
            assert (full.status_code, full.json()["code"]) == (413, "quota-exceeded")
        listed = api.get("/v1/blobs").json()
        assert [u["sha256"] for u in listed["uploads"]] == [first]
        assert (listed["used_bytes"], listed["quota_bytes"]) == (600, 1000)
        assert listed["uploads"][0]["expires_at"] > listed["uploads"][0]["used_at"]
        assert api.delete(f"/v1/blobs/{first}").status_code == 204
        assert api.head(f"/v1/blobs/{first}").status_code == 404
        assert api.delete(f"/v1/blobs/{first}").status_code == 404
        api.upload(keys, to="keys")
        assert api.get("/v1/keys").json()["used_bytes"] == 401


def test_an_upload_that_an_unfinished_job_needs_is_not_deleted(tmp_path: Path):
    write_bundle(tmp_path / "models")
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        job = api.order({"do": "sleep", "seconds": 30}).json()
        path = f"/v1/blobs/{job['input_sha256']}"
        refused = api.delete(path)
        assert (refused.status_code, refused.json()["code"]) == (409, "upload-in-use")
        api.delete(f"/v1/jobs/{job['id']}")
        assert api.delete(path).status_code == 204


def test_keys_of_another_key_set_are_refused_before_a_worker_sees_them(tmp_path: Path):
    log, right = tmp_path / "log", "a" * 64
    write_bundle(tmp_path / "models", fhe_params={"keyset_sha256": right})
    with ThreadGateway.fake(tmp_path) as gateway, gateway.client() as api:
        sha256 = sha256_hex(b"keys")
        path, order = f"/v1/keys/{sha256}", {"do": "echo", "log": str(log)}
        assert api.put(f"{path}?keyset=nonsense", content=b"keys").status_code == 422
        api.put(f"{path}?keyset={'b' * 64}", content=b"keys")
        refused = api.order(order, mode="fhe", keys=sha256)
        assert (refused.status_code, refused.json()["code"]) == (
            422,
            "fhe-keys-mismatch",
        )
        assert not log.exists()
        other = api.put(f"{path}?keyset={right}", content=b"keys")
        assert (other.status_code, other.json()["code"]) == (409, "keyset-bound")
        api.put(path, content=b"keys")  # says nothing, and changes nothing
        (listed,) = api.get("/v1/keys").json()["uploads"]
        assert listed["keyset_sha256"] == "b" * 64
        api.delete(path)
        api.put(path, content=b"keys")
        api.put(f"{path}?keyset={right}", content=b"keys")
        done = api.order(order, mode="fhe", keys=sha256, wait=30).json()
        assert done["status"] == "succeeded"


def test_what_has_expired_is_gone_and_can_be_uploaded_again(tmp_path: Path):
    write_bundle(tmp_path / "models")
    ttl = {"keys_ttl_s": 0.5, "sweep_every_s": 0.1}
    with ThreadGateway.fake(tmp_path, **ttl) as gateway, gateway.client() as api:
        sha256 = api.upload(b"keys", to="keys")
        file = gateway.app.state.gateway.blobs.path(sha256)
        assert file.exists()
        wait_until(lambda: not file.exists(), what="the sweep")
        gone = api.order({"do": "echo"}, mode="fhe", keys=sha256)
        assert (gone.status_code, gone.json()["code"]) == (404, "unknown-keys")
        assert api.upload(b"keys", to="keys") == sha256
