"""`privacy api-keys` and `privacy tenants` against a live gateway."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from privacy.cli import run
from tests.support.hand_made_bundle import write_bundle
from tests.support.live_gateway import ThreadGateway


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadGateway]:
    folder: Path = tmp_path_factory.mktemp("access")
    write_bundle(folder / "models")
    with capture_logs(), ThreadGateway.fake(folder) as gateway:
        yield gateway  # its log lines would stand between what commands print


@pytest.fixture
def privacy(served: ThreadGateway, capsys, monkeypatch, tmp_path) -> Callable[..., Any]:
    monkeypatch.setenv("PRIVACY_GATEWAY", served.base_url)
    monkeypatch.setenv("PRIVACY_API_KEY", served.admin_key)
    monkeypatch.setenv("PRIVACY_HOME", str(tmp_path))

    def call(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert run([*words, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


def test_a_tenant_gets_limits_and_a_key_and_is_deleted(
    served: ThreadGateway, privacy: Callable[..., Any]
):
    made = privacy("tenants", "create", "acme", "--name", "ACME", "--quota-bytes", "9")
    assert (made["id"], made["quota_bytes"], made["state"]) == ("acme", 9, "active")
    changed = privacy(
        "tenants", "change", "acme", "--quota-bytes", "-1", "--reads-per-minute", "0"
    )
    assert (changed["quota_bytes"], changed["reads_per_minute"]) == (None, 0)
    key = privacy("api-keys", "create", "first", "--tenant", "acme", "--expires", "2h")
    assert key["tenant"] == "acme"
    with served.client(key["key"]) as user:
        assert user.get("/v1/models").status_code == 200
    assert privacy("tenants", "suspend", "acme")["state"] == "suspended"
    assert privacy("tenants", "resume", "acme")["state"] == "active"
    assert "acme" in {t["id"] for t in privacy("tenants", "list")["tenants"]}
    assert privacy("tenants", "delete", "acme", "--yes")["state"] == "deleted"
    keys = privacy("api-keys", "list")["api_keys"]
    assert key["id"] not in {k["id"] for k in keys}


def test_a_key_is_rotated_with_an_overlap_and_revoked(
    served: ThreadGateway, privacy: Callable[..., Any]
):
    old = privacy("api-keys", "create", "mine", "--scope", "models:read")
    new = privacy("api-keys", "rotate", old["id"], "--overlap", "1h")
    assert new["id"] == old["id"]
    assert new["previous_until"]
    assert privacy("api-keys", "revoke", old["id"]) == {"revoked": old["id"]}
    for key in (old, new):
        with served.client(key["key"]) as user:
            assert user.get("/v1/models").status_code == 401
    found = privacy("api-keys", "rotate", old["id"], code=2)["error"]
    assert found["code"] == "key-revoked"


def test_mistakes_are_named(privacy: Callable[..., Any]):
    for words, code, exit_code in (
        (("api-keys", "create", "x", "--expires", "soon"), "malformed", 2),
        (("api-keys", "create", "x", "--tenant", "none"), "unknown-tenant", 4),
        (("tenants", "delete", "default", "--yes"), "own-tenant", 2),
        (("tenants", "create", "Not A Name"), "invalid-request", 2),
        (("tenants", "suspend", "none"), "unknown-tenant", 4),
    ):
        assert privacy(*words, code=exit_code)["error"]["code"] == code


def test_people_see_tables(served: ThreadGateway, privacy, capsys):
    privacy("tenants", "create", "shown", "--submits-per-minute", "60")
    for words in (["api-keys", "list"], ["tenants", "list"]):
        assert run(words) == 0
        shown = capsys.readouterr().out
        assert "bootstrap" in shown or "submits_per_minute 60" in shown.replace(
            "\n", ""
        )
