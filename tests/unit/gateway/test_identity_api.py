"""Callers over HTTP: tokens of an issuer beside API keys; who manages which keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.issuer import AUDIENCE, ISSUER, LocalIssuer, unsigned
from tests.support.live_gateway import ThreadGateway


@pytest.fixture(scope="module")
def issuer() -> LocalIssuer:
    return LocalIssuer()


@pytest.fixture(scope="module")
def served(
    issuer: LocalIssuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadGateway]:
    folder: Path = tmp_path_factory.mktemp("identity")
    keys = issuer.write(folder / "keys.json")
    entry = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(keys)}
    with ThreadGateway.fake(folder, oidc_issuers=[entry]) as gateway:
        yield gateway


def test_a_token_of_a_trusted_issuer_is_taken(
    served: ThreadGateway, issuer: LocalIssuer
):
    with served.client(issuer.token()) as user:
        assert user.get("/v1/jobs").json() == {"jobs": []}
        refused = user.get("/v1/api-keys")
    assert (refused.status_code, refused.json()["code"]) == (403, "missing-scope")


def test_a_refused_token_is_a_401_that_says_why(
    served: ThreadGateway, issuer: LocalIssuer
):
    for text, code in (
        (issuer.token(aud="other"), "invalid-token"),
        (issuer.token(exp=1), "token-expired"),
        (unsigned(issuer.claims()), "invalid-token"),
        ("x.y.z", "invalid-token"),
        ("eyJ" + "A" * 30_000, "invalid-token"),
    ):
        with served.client(text) as user:
            answer = user.get("/v1/jobs")
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_two_authorization_headers_are_refused(served: ThreadGateway):
    with served.client("") as user:
        header = ("Authorization", f"Bearer {served.admin_key}")
        assert user.get("/v1/jobs", headers=[header]).status_code == 200
        assert user.get("/v1/jobs", headers=[header, header]).status_code == 401


def test_a_tenants_admin_manages_its_own_tenants_keys_and_no_other(
    served: ThreadGateway,
):
    admin = served.new_key("tenant:admin", tenant="acme")
    elsewhere = {"tenant": "default", "scopes": ["jobs:read"]}
    with served.client() as operator, served.client(admin) as boss:
        others = operator.get("/v1/api-keys").json()["api_keys"]
        foreign = next(k["id"] for k in others if k["tenant"] == "default")
        made = boss.post("/v1/api-keys", json={"scopes": ["jobs:write"]}).json()
        assert made["tenant"] == "acme"
        listed = boss.get("/v1/api-keys").json()["api_keys"]
        assert {k["tenant"] for k in listed} == {"acme"}
        for body in (elsewhere, {"scopes": ["admin"]}, {"scopes": ["inputs:read"]}):
            refused = boss.post("/v1/api-keys", json=body)
            assert (refused.status_code, refused.json()["code"]) == (
                403,
                "missing-scope",
            )
        assert boss.delete(f"/v1/api-keys/{foreign}").status_code == 404
        assert boss.delete(f"/v1/api-keys/{made['id']}").status_code == 204


def test_a_tenants_admin_cannot_end_an_operators_key_of_the_same_tenant(
    served: ThreadGateway,
):
    boss_key = served.new_key("tenant:admin")
    with served.client(boss_key) as boss:
        listed = boss.get("/v1/api-keys").json()["api_keys"]
        operator = next(k["id"] for k in listed if k["scopes"] == ["admin"])
        assert boss.delete(f"/v1/api-keys/{operator}").status_code == 403
    with served.client() as admin:
        assert admin.get("/v1/api-keys").status_code == 200
