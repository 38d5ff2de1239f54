"""Every route: without a key, without its scope, as another tenant, with tricks.

A new route fails here until it is in the table; one whose path has a parameter needs
an entry in `_resources` or `PUBLIC`, too.
"""

import http.client
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.identity.caller import SCOPES, allows
from gateway.store.comparisons import plan
from gateway.store.contract_inputs import Name
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import Api, ThreadGateway

DIGEST = "0" * 64
OPEN = {
    "/healthz",
    "/readyz",
    "/v1/modes",
    "/.well-known/jwks.json",
    "/v1/log/head",
    "/v1/log/proof",
    "/v1/log/consistency",
    "/v1/log/leaves",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
}
NEEDED = {
    ("GET", "/v2/models/{name}"): "models:read",
    ("GET", "/v2/models/{name}/ready"): "models:read",
    ("GET", "/v2/models/{name}/versions/{version}"): "models:read",
    ("GET", "/v2/models/{name}/versions/{version}/ready"): "models:read",
    ("POST", "/v2/models/{name}/infer"): "jobs:write models:read",
    ("POST", "/v2/models/{name}/versions/{version}/infer"): "jobs:write models:read",
    ("POST", "/v1/estimates"): "models:read",
    ("GET", "/v1/webhooks"): "jobs:read",
    ("POST", "/v1/webhooks"): "jobs:write",
    ("GET", "/v1/webhooks/{webhook_id}"): "jobs:read",
    ("PATCH", "/v1/webhooks/{webhook_id}"): "jobs:write",
    ("DELETE", "/v1/webhooks/{webhook_id}"): "jobs:write",
    ("POST", "/v1/webhooks/{webhook_id}/rotate"): "jobs:write",
    ("POST", "/v1/webhooks/{webhook_id}/test"): "jobs:write",
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): "jobs:read",
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
    ("GET", "/v1/jobs/{job_id}/peer-receipt"): "jobs:read",
    ("GET", "/v1/peers/{name}/lies"): "admin",
    ("POST", "/v1/peers/{name}/trust"): "admin",
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
PUBLIC = {"name": "demo", "version": "1", "path": "fhe/client.json"}
"""Parameters that are the same for every tenant."""

UNKNOWN = {
    "job_id": "job_none",
    "sha256": DIGEST,
    "commitment": DIGEST,
    "key_id": "key_none",
    "tenant_id": "none",
    "webhook_id": "wh_none",
    "dispute_id": "dis_none",
    "node": "nowhere",
}
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/api-keys/{key_id}/rotate"): {"overlap_s": 0},
    ("PATCH", "/v1/webhooks/{webhook_id}"): {"enabled": True},
    ("POST", "/v1/jobs/{job_id}/comparison"): {
        "groups": [[f"job_{DIGEST[:32]}"]],
        "digests": {},
        "rows": 1,
        "differing_rows": 0,
    },
    ("POST", "/v1/disputes/{dispute_id}/resolution"): {},
    ("PUT", "/v1/nodes/{node}/quarantine"): {},
}
MAKES_OWN = {"PUT", "PATCH"}
"""An upload to a digest is the caller's own, whoever else has it."""

TRICKS = (
    "..",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "a%0d%0aX-Evil:%201",
    "%e2%80%ae",
    "%ff%fe",
    "%27%20OR%201=1--",
    "x" * 2000,
)
Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadGateway]:
    folder = tmp_path_factory.mktemp("access")
    write_bundle(folder / "models")
    with ThreadGateway.fake(folder, oip=True) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def ask(gateway: ThreadGateway) -> Iterator[Ask]:
    """Return a function that sends a path as it is, over one connection."""
    port = gateway.settings.port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(method: str, path: str, key: str = "", body: Any = None):
        headers = {"Upload-Offset": "0"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, body=sent, headers=headers)
        answer = connection.getresponse()
        raw = answer.read()
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.status, json.loads(raw) if raw and is_json else {}

    yield send
    connection.close()


@pytest.fixture(scope="module")
def key_of(gateway: ThreadGateway) -> Callable[..., str]:
    """Return a function that gives a key with some scopes, each made once."""
    made: dict[tuple[str, ...], str] = {}
    store = gateway.app.state.gateway
    store.tenants.create("other")

    def give(*scopes: str, tenant: str = "default") -> str:
        if (tenant, *scopes) not in made:
            _, text = store.api_keys.create(tenant=tenant, scopes=scopes)
            made[tenant, *scopes] = text
        return made[tenant, *scopes]

    return give


@pytest.fixture(scope="module")
def job(gateway: ThreadGateway) -> Iterator[dict[str, Any]]:
    with gateway.client() as api:
        job: dict[str, Any] = api.order({"do": "echo"}, wait=20).json()
        yield job


@pytest.fixture(scope="module")
def resources(gateway: ThreadGateway, job: dict[str, Any]) -> dict[str, str]:
    """Return what tenant "default" has, by the parameter that names it."""
    store = gateway.app.state.gateway
    bundle = store.registry.get("demo", None)
    store.contract_inputs.put("default", Name(bundle.sha256, "1" * 64, False), b"{}")  # noqa: FBT003
    key, _ = store.api_keys.create(tenant="default", scopes=["jobs:read"])
    hook = store.webhooks.add("default", "https://example.com/hook", ["job.failed"])
    with gateway.client() as api:
        sha256 = api.upload(b"of the tenant default")
        api.upload(b"of the tenant default", to="keys")
    return {
        "job_id": job["id"],
        "sha256": sha256,
        "commitment": "1" * 64,
        "key_id": key.id,
        "tenant_id": "default",
        "webhook_id": hook.id,
        "dispute_id": _disputed(store, job["id"]),
        "node": "nowhere-else",
    }


def _disputed(store: Any, job_id: str) -> str:
    """Return the id of a dispute about a tenant's job."""
    quality = store.quality
    job = store.jobs.find(job_id)
    with store.database.write() as c:
        plan(c, job, "always")
    found = store.comparisons.find(job_id)
    dispute = quality._dispute(job, found, {}, quality.nodes_of([job_id]))
    with store.database.write() as c:
        store.disputes.save(c, dispute, set())
    return dispute.id


def _url(path: str, values: dict[str, str]) -> str:
    filled = re.sub(r"{(\w+)}", lambda m: {**PUBLIC, **values}[m[1]], path)
    return filled + ("?model=demo" if "{commitment}" in path else "")


def _is_owned(path: str) -> bool:
    return not set(re.findall(r"{(\w+)}", path)) <= set(PUBLIC)


ROUTES = pytest.mark.parametrize(("method", "path"), NEEDED)
OWNED = pytest.mark.parametrize(
    ("method", "path"), [k for k in NEEDED if _is_owned(k[1])]
)


def test_every_route_is_in_this_table_with_the_scope_that_it_says(api: Api):
    spec = api.get("/openapi.json").json()["paths"]
    said = {
        (method.upper(), path): operation.get("security")
        for path, operations in spec.items()
        for method, operation in operations.items()
    }
    expected = {route: [{"api_key": words.split()}] for route, words in NEEDED.items()}
    assert said == expected | {("GET", path): None for path in OPEN}
    named = {name for _, path in said for name in re.findall(r"{(\w+)}", path)}
    assert named == set(PUBLIC) | set(UNKNOWN)


def test_a_false_key_is_counted_at_open_routes_and_refused_at_others(
    gateway: ThreadGateway,
):
    with gateway.client("pk_wrong") as api:
        for path in OPEN - {"/healthz", "/readyz"}:
            assert "RateLimit" in api.get(path).headers, path
        counted = gateway.app.state.gateway.refusals
        counted.take()
        for path in ("/v1/models", "/v2/models/demo"):
            assert api.get(path).status_code == 401
        assert counted.take()["status"] == {"401": 2}


@ROUTES
def test_no_route_answers_without_a_key(ask: Ask, method: str, path: str):
    for key in (
        "",
        "pk_wrong",
        "pk_" + "A" * 43,
        "not-a-key",
        "eyJhbGciOiJub25lIn0.e30.",
    ):
        status, _ = ask(method, _url(path, UNKNOWN), key, BODIES.get((method, path)))
        assert status == 401, key


@ROUTES
def test_no_route_answers_a_key_without_its_scope(
    ask: Ask, key_of: Callable[..., str], method: str, path: str
):
    scopes, body = NEEDED[method, path].split(), BODIES.get((method, path))
    for needed in scopes:
        others = [scope for scope in SCOPES if not allows([scope], needed)]
        status, problem = ask(method, _url(path, UNKNOWN), key_of(*others), body)
        assert status == 403
        if method != "HEAD":
            assert "missing-scope" in json.dumps(problem)
            assert needed in json.dumps(problem)
    status, _ = ask(method, _url(path, UNKNOWN), key_of(*scopes), body)
    assert status not in {401, 403}
    assert status < 500


@OWNED
def test_what_another_tenant_has_does_not_exist(
    ask: Ask,
    key_of: Callable[..., str],
    resources: dict[str, str],
    method: str,
    path: str,
):
    body = BODIES.get((method, path))
    stranger = key_of("tenant:admin", tenant="other")
    if NEEDED[method, path] == "admin":
        assert ask(method, _url(path, resources), stranger, body)[0] == 403
        return
    status, problem = ask(method, _url(path, resources), stranger, body)
    unknown_status, unknown = ask(method, _url(path, UNKNOWN), stranger, body)
    assert (status, problem.get("code")) == (unknown_status, unknown.get("code"))
    is_upload = method in MAKES_OWN and "webhook" not in path
    is_idempotent = (method, path) == ("DELETE", "/v1/contract-inputs/{commitment}")
    if not is_upload and not is_idempotent:
        assert status == 404, problem


def test_after_all_that_the_tenant_still_has_everything(
    api: Api, resources: dict[str, str], job: dict[str, Any]
):
    assert api.get(f"/v1/jobs/{job['id']}").json() == job
    for kind in ("blobs", "keys"):
        assert api.head(f"/v1/{kind}/{resources['sha256']}").status_code == 200
    path = f"/v1/contract-inputs/{resources['commitment']}?model=demo"
    assert api.get(path).content == b"{}"
    keys = {k["id"]: k for k in api.get("/v1/api-keys").json()["api_keys"]}
    assert not keys[resources["key_id"]]["revoked_at"]
    assert not keys[resources["key_id"]]["previous_until"]
    assert api.get(f"/v1/webhooks/{resources['webhook_id']}").status_code == 200


def test_lists_hold_nothing_of_another_tenant(
    stranger: Api, resources: dict[str, str], job: dict[str, Any]
):
    for path in ("jobs", "blobs", "keys", "webhooks", "disputes", "comparisons"):
        answer = stranger.get(f"/v1/{path}").raise_for_status()
        assert not any(value in answer.text for value in resources.values()), path


def test_jobs_and_blobs_of_another_tenant_are_out_of_reach(
    stranger: Api, job: dict[str, Any]
):
    assert job["id"] not in stranger.get("/v1/jobs").text
    body = {"model": "demo", "mode": "zkml", "input": job["input_sha256"]}
    refused = stranger.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown-blob")
    for sha256 in (job["input_sha256"], job["output_sha256"]):
        assert stranger.head(f"/v1/blobs/{sha256}").status_code == 404


@pytest.mark.parametrize(("method", "path"), [k for k in NEEDED if "{" in k[1]])
def test_tricks_in_a_path_lead_nowhere(
    gateway: ThreadGateway, ask: Ask, method: str, path: str
):
    body = BODIES.get((method, path))
    names = re.findall(r"{(\w+)}", path)
    for name in names:
        for trick in TRICKS:
            url = _url(path, {**UNKNOWN, name: trick})
            status, _ = ask(method, url, gateway.admin_key, body)
            is_idempotent = method == "DELETE" and name == "commitment"
            assert 400 <= status < 500 or (is_idempotent and status == 204), url


def test_other_schemes_than_bearer_are_refused(gateway: ThreadGateway):
    with gateway.client("") as api:
        header = {"Authorization": f"Basic {gateway.admin_key}"}
        assert api.get("/v1/models", headers=header).status_code == 401
