import base64
import json
import socket
from typing import Any

import pytest

from gateway.api import problems
from privacy.bundle import parse_manifest
from privacy.encoding import sha256_hex
from privacy.modes import modes_table
from tests.support.live_gateway import Api, ThreadGateway, wait_until

NONCE = base64.urlsafe_b64encode(b"n" * 32).rstrip(b"=").decode()

OPEN = ("/v1/modes", "/v1/log/")


def test_the_open_pages_need_no_key(gateway: ThreadGateway):
    with gateway.client("") as api:
        assert api.get("/healthz").json() == {"status": "ok"}
        ready = api.get("/readyz").json()
        assert ready["status"] == "ready"
        assert set(ready["checks"].values()) == {"ok"}
        assert api.get("/v1/modes").json() == modes_table()
        (jwk,) = api.get("/.well-known/jwks.json").json()["keys"]
        assert jwk["crv"] == "Ed25519"
        assert "d" not in jwk


def test_a_manifest_is_served_byte_for_byte(api: Api):
    answer = api.get("/v1/models/demo")
    listed = {m["name"]: m for m in api.get("/v1/models").json()["models"]}
    assert sha256_hex(answer.content) == listed["demo"]["model_sha256"]
    assert parse_manifest(answer.content).name == "demo"
    assert answer.headers["etag"] == f'"{listed["demo"]["model_sha256"]}"'
    assert answer.headers["x-model-version"] == "1"
    again = api.get(
        "/v1/models/demo", headers={"If-None-Match": answer.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert api.get("/v1/models/demo", params={"version": "2"}).status_code == 404


def test_the_list_of_models_says_why_a_mode_is_not_offered(api: Api):
    listed = {m["name"]: m for m in api.get("/v1/models").json()["models"]}
    assert listed["no-fhe"]["modes"] == {"fhe": "too deep", "zkml": True, "tee": True}
    assert listed["demo"]["columns"] == 2


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("fhe/client.json", 200),
        ("zkml/vk.key", 200),
        ("fhe/server.zip", 404),
        ("tee/model.onnx", 404),
        ("manifest.json", 404),
        ("../1/fhe/client.json", 404),
        ("%2e%2e/%2e%2e/%2e%2e/data/receipt.key", 404),
        ("fhe%2F..%2Ftee%2Fmodel.onnx", 404),
        ("none", 404),
    ],
)
def test_only_public_files_are_served(api: Api, path: str, status: int):
    answer = api.get(f"/v1/models/demo/1/files/{path}")
    assert answer.status_code == status
    if status == 200:
        manifest = parse_manifest(api.get("/v1/models/demo").content)
        assert sha256_hex(answer.content) == manifest.files[path].sha256


@pytest.mark.parametrize("where", ["blobs", "keys"])
def test_an_upload_is_new_once_and_can_be_asked_for(
    api: Api, stranger: Api, where: str
):
    content = f"content for {where}".encode()
    path = f"/v1/{where}/{sha256_hex(content)}"
    assert api.head(path).status_code == 404
    assert api.put(path, content=content).status_code == 201
    assert api.put(path, content=content).status_code == 200
    assert api.head(path).status_code == 200
    assert stranger.head(path).status_code == 404
    assert stranger.put(path, content=content).status_code == 201
    other = "keys" if where == "blobs" else "blobs"
    assert api.head(f"/v1/{other}/{sha256_hex(content)}").status_code == 404


def test_uploads_that_do_not_fit_are_refused(api: Api):
    digest = sha256_hex(b"content")
    wrong = api.put(f"/v1/blobs/{digest}", content=b"other")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "digest-mismatch")
    empty = api.put(f"/v1/blobs/{sha256_hex(b'')}", content=b"")
    assert (empty.status_code, empty.json()["code"]) == (422, "empty-upload")
    assert api.put("/v1/blobs/ABC", content=b"x").status_code == 422
    big = b"x" * ((1 << 20) + 1)
    for content in (big, iter([big[: 1 << 19], big[1 << 19 :]])):  # announced or not
        large = api.put(f"/v1/blobs/{sha256_hex(big)}", content=content)
        assert (large.status_code, large.json()["code"]) == (413, "too-large")


def test_an_upload_broken_off_is_no_defect_and_leaves_nothing(
    gateway: ThreadGateway, api: Api, monkeypatch: pytest.MonkeyPatch
):
    defects: list[Any] = []
    monkeypatch.setattr(problems, "error_id_of", lambda exc, **_: defects.append(exc))
    uploads = gateway.settings.data_dir / "blobs" / "uploads"
    with socket.create_connection(("127.0.0.1", gateway.settings.port)) as connection:
        head = (
            f"PUT /v1/blobs/{'0' * 64} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
            f"Authorization: Bearer {gateway.admin_key}\r\n\r\nxxx"
        )
        connection.sendall(head.encode())
        wait_until(lambda: list(uploads.iterdir()), what="the upload never began")
    wait_until(lambda: not list(uploads.iterdir()), what="the part stays")
    assert api.get("/readyz").is_success
    assert defects == []


def test_evidence_is_fresh_for_the_nonce(api: Api):
    asked = {"model": "demo", "nonce": NONCE}
    answer = api.get("/v1/attestations", params=asked)
    assert answer.json()["nonce"] == (b"n" * 32).hex()
    assert answer.headers["cache-control"] == "no-store"
    for bad in ("short", NONCE + "=", "!" * 43, NONCE[:-1] + "9"):
        refused = api.get("/v1/attestations", params={**asked, "nonce": bad})
        assert refused.status_code == 422
    unknown = api.get("/v1/attestations", params={**asked, "model": "none"})
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("mode", "status", "code"),
    [
        ("tee", 200, None),
        ("zkml", 422, "no-enclave"),
        ("tee+zkml", 404, "mode-not-offered"),
        ("teee", 404, "unknown-mode"),
    ],
)
def test_evidence_is_of_a_mode_that_has_an_enclave(api: Api, mode, status, code):
    asked = {"model": "demo", "nonce": NONCE, "mode": mode}
    answer = api.get("/v1/attestations", params=asked)
    assert answer.status_code == status
    assert answer.json().get("code") == code


def test_a_dead_enclave_fails_the_job_and_is_replaced(api: Api):
    job = api.order({"do": "die"}, mode="tee", wait=20).json()
    assert job["problem"]["code"] == "enclave-gone"
    assert api.order({"do": "echo"}, mode="tee", wait=20).json()["status"] == (
        "succeeded"
    )


def test_the_node_shows_what_it_can_do(api: Api):
    (node,) = api.get("/v1/nodes").json()["nodes"]
    assert (node["name"], node["kind"], node["state"]) == ("local", "local", "ready")
    assert node["cpus"] >= 1
    assert node["gpus"] == 1  # as its settings say
    assert node["memory_bytes"] > 1 << 28
    assert set(node["modes"]) == {"fhe", "zkml", "tee", "tee+zkml"}
    assert node["modes"]["zkml"]["workers"] == 2


def test_an_api_key_is_shown_once_listed_without_text_and_revoked(
    gateway: ThreadGateway, api: Api
):
    body = {"tenant": "default", "scopes": ["models:read"], "name": "n"}
    made = api.post("/v1/api-keys", json=body)
    assert made.status_code == 201
    key = made.json()
    listing = api.get("/v1/api-keys")
    assert key["id"] in listing.text
    assert key["key"] not in listing.text
    with gateway.client(key["key"]) as user:
        assert user.get("/v1/models").status_code == 200
        assert api.delete(f"/v1/api-keys/{key['id']}").status_code == 204
        assert user.get("/v1/models").json()["code"] == "unauthenticated"
    assert api.delete("/v1/api-keys/key_none").status_code == 404
    for wrong in ({"scopes": ["all"]}, {"scopes": []}, {"expires_in_s": -1}):
        assert api.post("/v1/api-keys", json={**body, **wrong}).status_code == 422


def test_an_expired_key_is_told_so(gateway: ThreadGateway):
    key = gateway.new_key("models:read", expires_in_s=0.01)
    with gateway.client(key) as user:
        answer = user.get("/v1/models")
    assert (answer.status_code, answer.json()["code"]) == (401, "key-expired")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_unknown_paths_and_methods_are_problems_too(api: Api):
    missing = api.get("/v1/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "not-found")
    wrong = api.post("/healthz")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method-not-allowed")
    for answer in (missing, wrong):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"]


def test_a_defect_is_a_problem_without_details(
    gateway: ThreadGateway, api: Api, monkeypatch: pytest.MonkeyPatch
):
    def fail() -> None:
        raise RuntimeError("quotes a secret")

    monkeypatch.setattr(gateway.app.state.gateway.scheduler, "describe", fail)
    answer = api.get("/v1/nodes")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text


def test_openapi_documents_problems_scopes_and_bodies(api: Api):
    spec = api.get("/openapi.json").json()
    assert len(spec["paths"]) >= 16
    assert "HTTPValidationError" not in json.dumps(spec)
    for path, operations in spec["paths"].items():
        for operation in operations.values():
            problem = operation["responses"]["422"]["content"]
            kinds = {"application/problem+json"}
            if path.startswith("/v2"):  # in the shape of that protocol, too
                kinds |= {"application/json"}
            assert set(problem) == kinds, path
            if path.startswith("/v1/") and not path.startswith(OPEN):
                assert operation["security"][0]["api_key"], path
    submit = spec["paths"]["/v1/jobs"]["post"]
    assert submit["security"] == [{"api_key": ["jobs:write"]}]
    assert {"200", "202", "409", "429"} <= set(submit["responses"])
