"""The data owner's FHE keys, real engines: kept, listed, rotated, moved, deleted."""

import json

import pytest

from privacy.cli.app import run
from privacy.client import Client
from privacy.errors import AuthError

PHRASE = "a passphrase of this test"


@pytest.fixture(scope="module")
def credit(published, gateway):
    return published("credit")


@pytest.fixture
def command(gateway, tmp_path, monkeypatch, capsys):
    """Run `privacy …` as a data owner with a home of its own."""

    def run_it(*args, code=0, **env):
        own = {"PRIVACY_HOME": str(tmp_path / "home"), "PRIVACY_PASSPHRASE": PHRASE}
        for name, value in {**own, **env}.items():
            monkeypatch.setenv(name, value)
        found = run([*map(str, args), "--json"])
        told = capsys.readouterr()
        assert found == code, told.out + told.err
        assert PHRASE not in told.out + told.err
        return json.loads(told.out)

    key = gateway.new_key(*SCOPES, tenant="keys")
    run_it("login", gateway.base_url, "--api-key", key)
    return run_it


SCOPES = ("models:read", "jobs:read", "jobs:write")


@pytest.fixture
def rows(credit, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(",".join(map(str, row)) for row in credit.rows[:2]))
    return file


def test_keys_from_the_first_question_to_their_end(command, credit, rows, tmp_path):
    ask = ("infer", credit.name, "--mode", "fhe", "--input", rows)
    refused = command(*ask, code=3, PRIVACY_PASSPHRASE="")
    assert refused["error"]["code"] == "passphrase-missing"
    assert command("keys", "list") == {"keys": []}

    first = command(*ask)
    gone = command("jobs", "--delete-result", first["job_id"])
    assert (gone["status"], gone["output_sha256"]) == ("succeeded", None)
    (key,) = command("keys", "list", PRIVACY_PASSPHRASE="")["keys"]
    assert key["is_protected"]
    assert list(key["models"]) == [f"{credit.name}/1"]
    assert len(key["uploads"]) == 1
    kept = command("keys", "uploads")
    sizes = {u["sha256"]: u["bytes"] for u in kept["uploads"]}
    assert sizes[key["evaluation_sha256"]] > 1 << 20
    assert command(*ask)["bytes_up"] < first["bytes_up"] / 10  # nothing sent again

    wrong = command(*ask, code=3, PRIVACY_PASSPHRASE="not the passphrase")
    assert wrong["error"]["code"] == "wrong-passphrase"

    file = tmp_path / "key.sealed"
    other = {"PRIVACY_EXPORT_PASSPHRASE": "for the way there"}
    command("keys", "export", key["key_id"], file, **other)

    made = command("keys", "rotate", key["key_id"])["key"]
    states = {k["key_id"]: k["retired_at"] for k in command("keys", "list")["keys"]}
    assert states[key["key_id"]]
    assert not states[made["key_id"]]
    again = command(*ask)
    assert [r["label"] for r in again["rows"]] == [r["label"] for r in first["rows"]]
    assert len(command("keys", "uploads")["uploads"]) >= 4  # two keys, inputs

    command("keys", "delete", key["key_id"])
    left = {u["sha256"] for u in command("keys", "uploads")["uploads"]}
    assert key["evaluation_sha256"] not in left
    assert [k["key_id"] for k in command("keys", "list")["keys"]] == [made["key_id"]]

    there = {"PRIVACY_HOME": str(tmp_path / "there"), **other}
    command("keys", "import", file, **there)
    assert command("keys", "list", **there)["keys"][0]["key_id"] == key["key_id"]
    assert command("keys", "import", file, code=2, **there)["error"]["code"] == (
        "key-exists"
    )
    command("keys", "delete", "0" * 16, code=4)


def test_keys_that_expired_at_the_gateway_are_uploaded_again(gateway, credit, tmp_path):
    key = gateway.new_key(*SCOPES, tenant="expiry")
    with Client(gateway.base_url, api_key=key, home=tmp_path) as client:
        rows = credit.rows[:1].tolist()
        client.infer(credit.name, rows, mode="fhe")
        (mine,) = client.keys.all()
        client.delete_upload(mine.evaluation_sha256)
        assert client.infer(credit.name, rows, mode="fhe").bytes_up > mine.bytes / 2
        assert len(client.keys.all()) == 1


def test_without_a_passphrase_no_keys_are_made(gateway, credit, tmp_path, monkeypatch):
    monkeypatch.delenv("PRIVACY_PASSPHRASE")
    rows, told = credit.rows[:1].tolist(), []
    url, key = gateway.base_url, gateway.admin_key
    with (
        Client(url, api_key=key, home=tmp_path, notify=told.append) as client,
        pytest.raises(AuthError) as caught,
    ):
        client.infer(credit.name, rows, mode="fhe")
    assert caught.value.code == "passphrase-missing"
    assert {"stage": "generate FHE keys"} not in told
    with Client(url, api_key=key, home=tmp_path, allow_plaintext_keys=True) as client:
        assert client.infer(credit.name, rows, mode="fhe").rows
        assert not client.keys.all()[0].is_protected
