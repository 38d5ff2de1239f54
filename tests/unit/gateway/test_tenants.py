"""Tenants: limits of their own, suspended, resumed, and deleted with all they have."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.jobs.deletions import Deletions, tables_of_tenants
from gateway.metrics import REGISTRY
from gateway.store.contract_inputs import Name
from gateway.store.parts import Owner
from gateway.store.tables import jobs, metadata, pins, uploads
from privacy.encoding import sha256_hex
from tests.support.hand_made_bundle import write_bundle
from tests.support.issuer import AUDIENCE, ISSUER, LocalIssuer
from tests.support.live_gateway import Api, ThreadGateway, wait_until

JOB = {"where": "job"}
SCOPES = ("models:read", "jobs:read", "jobs:write")


@pytest.fixture(scope="module")
def issuer() -> LocalIssuer:
    return LocalIssuer()


@pytest.fixture(scope="module")
def served(
    issuer: LocalIssuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadGateway]:
    folder: Path = tmp_path_factory.mktemp("tenants")
    write_bundle(folder / "models")
    keys = issuer.write(folder / "keys.json")
    entry = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(keys)}
    with ThreadGateway.fake(folder, oidc_issuers=[entry]) as gateway:
        yield gateway


@pytest.fixture
def operator(served: ThreadGateway) -> Iterator[Api]:
    with served.client() as api:
        yield api


def status(answer: Any) -> tuple[int, str]:
    return answer.status_code, "" if answer.is_success else answer.json()["code"]


def test_a_tenant_is_made_shown_changed_and_listed(operator: Api):
    made = operator.post("/v1/tenants", json={"id": "acme", "quota_bytes": 100})
    assert made.status_code == 201
    assert made.json()["quota_bytes"] == 100
    again = operator.post("/v1/tenants", json={"id": "acme"})
    assert status(again) == (409, "tenant-exists")
    change = {"quota_bytes": None, "name": "ACME", "reads_per_minute": 7}
    changed = operator.patch("/v1/tenants/acme", json=change).json()
    assert {name: changed[name] for name in change} == change
    assert changed == operator.get("/v1/tenants/acme").json()
    listed = operator.get("/v1/tenants").json()["tenants"]
    assert {"acme", "default"} <= {t["id"] for t in listed}
    assert status(operator.get("/v1/tenants/none")) == (404, "unknown-tenant")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "../x"},
        {"id": "A"},
        {"id": "a/b"},
        {"id": "x" * 64},
        {"id": "x", "quota_bytes": -1},
        {"id": "x", "quota_bytes": True},
        {"id": "x", "quota_bytes": 1e400},
        {"id": "x", "max_queued_jobs": 1 << 40},
        {"id": "x", "name": "a\x00b"},
        {"id": "x", "state": "deleted"},
    ],
    ids=str,
)
def test_a_tenant_that_cannot_be_is_refused(operator: Api, body: dict[str, Any]):
    text = json.dumps(body)
    head = {"Content-Type": "application/json"}
    refused = operator.post("/v1/tenants", content=text, headers=head)
    assert refused.status_code == 422


def test_a_key_is_made_for_a_tenant_that_is_there_only(operator: Api):
    body = {"tenant": "nowhere", "scopes": ["jobs:read"]}
    assert status(operator.post("/v1/api-keys", json=body)) == (404, "unknown-tenant")


def test_a_suspended_tenant_is_refused_until_it_is_resumed(
    served: ThreadGateway, operator: Api, issuer: LocalIssuer
):
    key = served.new_key(*SCOPES, tenant="paused")
    token = issuer.token(tenant="paused")
    with served.client(key) as by_key, served.client(token) as by_token:
        for api in (by_key, by_token):
            assert api.get("/v1/jobs").status_code == 200
        operator.patch("/v1/tenants/paused", json={"state": "suspended"})
        for api in (by_key, by_token):
            assert status(api.get("/v1/jobs")) == (403, "tenant-suspended")
        operator.patch("/v1/tenants/paused", json={"state": "active"})
        for api in (by_key, by_token):
            assert api.get("/v1/jobs").status_code == 200


def test_a_token_of_a_tenant_that_is_not_here_is_refused(
    served: ThreadGateway, issuer: LocalIssuer
):
    with served.client(issuer.token(tenant="unheard-of")) as api:
        assert status(api.get("/v1/jobs")) == (403, "no-tenant")


def test_nobody_suspends_or_deletes_its_own_tenant(operator: Api):
    change = operator.patch("/v1/tenants/default", json={"state": "suspended"})
    assert status(change) == (409, "own-tenant")
    assert status(operator.delete("/v1/tenants/default")) == (409, "own-tenant")


def test_only_an_operator_sees_and_changes_other_tenants(
    served: ThreadGateway, operator: Api
):
    with served.client(served.new_key("tenant:admin", tenant="boss")) as boss:
        assert boss.get("/v1/tenants/boss").json()["id"] == "boss"
        assert status(boss.get("/v1/tenants/default")) == (404, "unknown-tenant")
        for answer in (
            boss.get("/v1/tenants"),
            boss.post("/v1/tenants", json={"id": "x"}),
            boss.patch("/v1/tenants/boss", json={"quota_bytes": 1 << 50}),
            boss.delete("/v1/tenants/default"),
        ):
            assert status(answer) == (403, "missing-scope")


def test_limits_of_its_own_hold_for_a_tenant(served: ThreadGateway, operator: Api):
    key = served.new_key(*SCOPES, tenant="small")
    limits = {"quota_bytes": 10, "max_queued_jobs": 0, "submits_per_minute": 2}
    operator.patch("/v1/tenants/small", json=limits)
    time.sleep(1.1)  # as another gateway would see it
    with served.client(key) as api:
        sha256 = api.upload(b"12345678")
        more = api.put("/v1/blobs/" + "0" * 64, content=b"123")
        assert status(more) == (413, "quota-exceeded")
        assert api.get("/v1/blobs").json()["quota_bytes"] == 10
        body = {"model": "demo", "mode": "zkml", "input": sha256}
        assert status(api.post("/v1/jobs", json=body)) == (429, "queue-full")
        api.post("/v1/jobs", json=body)
        assert status(api.post("/v1/jobs", json=body)) == (429, "rate-limited")


def test_deleting_a_tenant_leaves_nothing_of_it_and_all_of_others(
    served: ThreadGateway, operator: Api
):
    gateway = served.app.state.gateway
    key = served.new_key(*SCOPES, tenant="leaver")
    with served.client(key) as leaver:
        done = leaver.order({"do": "echo"}, wait=20).json()
        open_job = leaver.order({"do": "sleep", "seconds": 60}).json()
        mine = leaver.upload(b"only mine")
        shared = leaver.upload(b"also another's")
        pinned = leaver.upload(b"kept for a dispute")
        handed_over = sha256_hex(b"an input for a contract")
        name = Name("ab" * 32, "cd" * 32, is_sealed=True)
        gateway.contract_inputs.put("leaver", name, b"an input for a contract")
        with gateway.database.write() as c:
            pin = {"dispute_id": "d", "sha256": pinned, "tenant": "leaver"}
            c.execute(sa.insert(pins).values(**pin))
            c.execute(sa.delete(uploads).where(uploads.c.sha256 == pinned))
        assert gateway.blobs.path(pinned).exists()
        assert operator.upload(b"also another's") == shared
        gone = operator.delete("/v1/tenants/leaver")
        assert gone.json()["state"] == "deleted"
        refused = status(leaver.get("/v1/jobs"))  # the key is remembered for a second
        assert refused in {(401, "unauthenticated"), (403, "no-tenant")}
    for table in tables_of_tenants():
        query = sa.select(sa.func.count()).where(table.c.tenant == "leaver")
        with gateway.database.read() as c:
            assert not c.execute(query).scalar_one(), table.name
    made = (done["input_sha256"], done["output_sha256"], done["evidence_sha256"])
    for sha256 in (mine, pinned, handed_over, *made):
        assert not gateway.blobs.path(sha256).exists()
    assert gateway.blobs.path(shared).exists()
    assert operator.head(f"/v1/blobs/{shared}").status_code == 200
    wait_until(lambda: open_job["id"] not in gateway.jobs.unfinished(), seconds=5)
    assert status(operator.post("/v1/tenants", json={"id": "leaver"})) == (
        409,
        "tenant-exists",
    )
    listed = operator.get("/v1/tenants").json()["tenants"]
    assert "leaver" not in {t["id"] for t in listed}
    body = {"tenant": "leaver", "scopes": ["jobs:read"]}
    assert status(operator.post("/v1/api-keys", json=body)) == (409, "tenant-deleted")
    assert operator.get("/v1/tenants/leaver").json()["state"] == "deleted"


def test_a_run_whose_job_was_deleted_at_another_gateway_leaves_no_files(
    served: ThreadGateway, operator: Api
):
    gateway = served.app.state.gateway
    job_id = operator.order({"do": "sleep", "seconds": 60}).json()["id"]
    wait_until(lambda: gateway.jobs.find(job_id).status == "running", seconds=20)
    work = gateway.service.folder / job_id
    assert work.exists()
    with gateway.database.write() as c:
        c.execute(sa.delete(jobs).where(jobs.c.id == job_id))
    defects = _defects()
    gateway.service.abandon(job_id)
    wait_until(lambda: job_id not in gateway.service.under_way(), seconds=20)
    assert not work.exists()
    assert _defects() == defects


def _defects() -> float:
    return REGISTRY.get_sample_value("privacy_internal_errors_total", JOB) or 0.0


def test_a_deletion_that_was_broken_off_goes_on(served: ThreadGateway):
    gateway = served.app.state.gateway
    with served.client(served.new_key(*SCOPES, tenant="half")) as half:
        mine = half.upload(b"left by half")
        gateway.tenants.change("half", state="deleting")
        assert status(half.get("/v1/jobs")) == (403, "no-tenant")
    asyncio.run(gateway.deletions.sweep())
    assert gateway.tenants.get("half").state == "deleted"
    assert not gateway.blobs.path(mine).exists()


def test_what_a_request_left_after_the_deletion_goes_too(
    served: ThreadGateway, operator: Api, tmp_path: Path
):
    gateway = served.app.state.gateway
    operator.post("/v1/tenants", json={"id": "late"})
    assert operator.delete("/v1/tenants/late").json()["state"] == "deleted"
    part, late = tmp_path / "part", b"it came after the deletion"
    part.write_bytes(late)
    owner = Owner("late", "blob", sha256_hex(late))
    gateway.uploads.own(part, owner)
    asyncio.run(gateway.deletions.sweep())
    assert not gateway.blobs.path(owner.sha256).exists()
    assert gateway.uploads.of("late", "blob") == []


def test_a_deleted_tenant_that_left_nothing_is_not_deleted_again(
    served: ThreadGateway, operator: Api, monkeypatch: pytest.MonkeyPatch
):
    deletions = served.app.state.gateway.deletions
    operator.post("/v1/tenants", json={"id": "clean"})
    assert operator.delete("/v1/tenants/clean").json()["state"] == "deleted"
    again: list[str] = []

    async def delete(_: Deletions, tenant_id: str) -> None:
        again.append(tenant_id)

    monkeypatch.setattr(Deletions, "delete", delete)
    asyncio.run(deletions.sweep())
    assert not again
    late = deletions.uploads.parts.write(b"late", Owner("clean", "blob", "0" * 64))
    asyncio.run(deletions.sweep())
    late.unlink()
    assert again == ["clean"]


def test_every_table_that_names_a_tenant_is_emptied_of_it():
    naming = {t.name for t in metadata.sorted_tables if "tenant" in t.c}
    assert {t.name for t in tables_of_tenants()} == naming
    assert {"api_keys", "jobs", "uploads"} <= naming
