"""Every route, without a key, with a key that lacks the scope, as another tenant."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.live_gateway import Api, ThreadGateway

DIGEST = "0" * 64
SCOPES = {"models:read", "jobs:read", "jobs:write"}
OPEN = {
    "/healthz",
    "/readyz",
    "/v1/modes",
    "/.well-known/jwks.json",
    "/v1/log/head",
    "/v1/log/proof",
    "/v1/log/consistency",
    "/v1/log/leaves",
}
NEEDED = {
    ("GET", "/v1/models"): "models:read",
    ("GET", "/v1/models/{name}"): "models:read",
    ("GET", "/v1/models/{name}/{version}/files/{path}"): "models:read",
    ("GET", "/v1/blobs"): "jobs:read",
    ("PUT", "/v1/blobs/{sha256}"): "jobs:write",
    ("PATCH", "/v1/blobs/{sha256}"): "jobs:write",
    ("HEAD", "/v1/blobs/{sha256}"): "jobs:write",
    ("DELETE", "/v1/blobs/{sha256}"): "jobs:write",
    ("GET", "/v1/keys"): "jobs:read",
    ("PUT", "/v1/keys/{sha256}"): "jobs:write",
    ("PATCH", "/v1/keys/{sha256}"): "jobs:write",
    ("HEAD", "/v1/keys/{sha256}"): "jobs:write",
    ("DELETE", "/v1/keys/{sha256}"): "jobs:write",
    ("POST", "/v1/jobs"): "jobs:write",
    ("GET", "/v1/jobs"): "jobs:read",
    ("GET", "/v1/jobs/{job_id}"): "jobs:read",
    ("DELETE", "/v1/jobs/{job_id}"): "jobs:write",
    ("GET", "/v1/jobs/{job_id}/events"): "jobs:read",
    ("GET", "/v1/jobs/{job_id}/result"): "jobs:read",
    ("DELETE", "/v1/jobs/{job_id}/result"): "jobs:write",
    ("GET", "/v1/jobs/{job_id}/evidence"): "jobs:read",
    ("GET", "/v1/jobs/{job_id}/receipt"): "jobs:read",
    ("GET", "/v1/jobs/{job_id}/comparison"): "jobs:read",
    ("POST", "/v1/jobs/{job_id}/comparison"): "jobs:write",
    ("GET", "/v1/comparisons"): "jobs:read",
    ("GET", "/v1/disputes"): "jobs:read",
    ("GET", "/v1/disputes/{dispute_id}"): "jobs:read",
    ("POST", "/v1/disputes/{dispute_id}/resolution"): "admin",
    ("PUT", "/v1/nodes/{node}/quarantine"): "admin",
    ("DELETE", "/v1/nodes/{node}/quarantine"): "admin",
    ("POST", "/v1/estimates"): "models:read",
    ("PUT", "/v1/contract-inputs/{commitment}"): "jobs:write",
    ("GET", "/v1/contract-inputs/{commitment}"): "jobs:read",
    ("DELETE", "/v1/contract-inputs/{commitment}"): "jobs:write",
    ("GET", "/v1/attestations"): "models:read",
    ("GET", "/v1/nodes"): "models:read",
    ("POST", "/v1/api-keys"): "tenant:admin",
    ("GET", "/v1/api-keys"): "tenant:admin",
    ("DELETE", "/v1/api-keys/{key_id}"): "tenant:admin",
    ("POST", "/v1/api-keys/{key_id}/rotate"): "tenant:admin",
    ("POST", "/v1/tenants"): "admin",
    ("GET", "/v1/tenants"): "admin",
    ("GET", "/v1/tenants/{tenant_id}"): "tenant:admin",
    ("PATCH", "/v1/tenants/{tenant_id}"): "admin",
    ("DELETE", "/v1/tenants/{tenant_id}"): "admin",
    ("GET", "/v1/audit"): "admin",
    ("GET", "/v1/audit/heads"): "admin",
    ("GET", "/metrics"): "metrics:read",
}
PARTS = {
    "{name}": "demo",
    "{version}": "1",
    "{path}": "fhe/client.json",
    "{sha256}": DIGEST,
    "{commitment}": f"{DIGEST}?model=demo",
    "{key_id}": "key_none",
    "{tenant_id}": "none",
    "{dispute_id}": "dis_none",
    "{node}": "nowhere",
}


def _url(path: str, job_id: str) -> str:
    for part, value in {**PARTS, "{job_id}": job_id}.items():
        path = path.replace(part, value)
    return path


@pytest.fixture(scope="module")
def job(gateway: ThreadGateway) -> Iterator[dict[str, Any]]:
    with gateway.client() as api:
        job: dict[str, Any] = api.order({"do": "echo"}, wait=20).json()
        yield job


def test_every_route_is_in_this_table(api: Api):
    spec = api.get("/openapi.json").json()["paths"]
    routes = {(m.upper(), p) for p, ops in spec.items() for m in ops}
    assert routes == set(NEEDED) | {("GET", p) for p in OPEN}


@pytest.mark.parametrize(("method", "path"), NEEDED)
def test_no_route_answers_without_a_key(
    gateway: ThreadGateway, job: dict[str, Any], method: str, path: str
):
    for key in ("", "pk_wrong", "pk_" + "A" * 43, "not-a-key"):
        with gateway.client(key) as api:
            answer = api.request(method, _url(path, job["id"]))
        assert answer.status_code == 401, (key, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path"), NEEDED)
def test_no_route_answers_a_key_without_its_scope(
    gateway: ThreadGateway, job: dict[str, Any], method: str, path: str
):
    needed = NEEDED[method, path]
    key = gateway.new_key(*sorted(SCOPES - {needed}))
    with gateway.client(key) as api:
        answer = api.request(method, _url(path, job["id"]))
    assert answer.status_code == 403
    if method != "HEAD":
        assert answer.json()["code"] == "missing-scope"
        assert needed in answer.json()["detail"]
    if needed in SCOPES:
        with gateway.client(gateway.new_key(needed)) as api:
            harmless = "job_none" if method == "DELETE" else job["id"]
            allowed = api.request(method, _url(path, harmless))
        assert allowed.status_code not in {401, 403}


@pytest.mark.parametrize(("method", "path"), [k for k in NEEDED if "{job_id}" in k[1]])
def test_a_job_does_not_exist_for_another_tenant(
    stranger: Api, api: Api, job: dict[str, Any], method: str, path: str
):
    answer = stranger.request(method, _url(path, job["id"]))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-job")
    unknown = stranger.request(method, _url(path, "job_none"))
    assert unknown.json()["detail"] == answer.json()["detail"]
    assert api.get(f"/v1/jobs/{job['id']}").json() == job


def test_jobs_and_blobs_of_another_tenant_are_out_of_reach(
    stranger: Api, api: Api, job: dict[str, Any]
):
    assert job["id"] not in stranger.get("/v1/jobs").text
    body = {"model": "demo", "mode": "zkml", "input": job["input_sha256"]}
    refused = stranger.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown-blob")
    for sha256 in (job["input_sha256"], job["output_sha256"]):
        assert stranger.head(f"/v1/blobs/{sha256}").status_code == 404


def test_other_schemes_than_bearer_are_refused(gateway: ThreadGateway):
    with gateway.client("") as api:
        header = {"Authorization": f"Basic {gateway.admin_key}"}
        assert api.get("/v1/models", headers=header).status_code == 401
