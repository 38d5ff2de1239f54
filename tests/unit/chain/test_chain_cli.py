"""The commands `privacy chain …`, on a real chain process."""

import json
import shutil
import stat
import subprocess
import sys
from dataclasses import replace

import pytest

from privacy.chain.config import read_config, write_config
from privacy.cli.app import run
from privacy.errors import AuthError, ConflictError, FormatError
from privacy.zkml.evm.facts import read_facts, write_facts
from tests.support.chain_site import FEE, PROVIDER


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    """A keystore made once: making one is slow on purpose."""
    path = tmp_path_factory.mktemp("keystore") / "keystore.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVACY_CHAIN_PASSWORD", "correct horse")
        patch.setenv("PRIVACY_CHAIN_KEY", f"{PROVIDER:064x}")
        account = ["chain", "account", "--keystore", str(path)]
        assert run([*account, "--import-key"]) == 0
    return path


@pytest.fixture
def cli(site, imported, tmp_path, monkeypatch, capsys):
    """Run `privacy chain …` with a funded account and the site's contracts."""
    monkeypatch.setenv("PRIVACY_CHAIN_PASSWORD", "correct horse")
    site.chain.account(PROVIDER)
    chain, keystore = tmp_path / "chain.json", tmp_path / "keystore.json"
    shutil.copy(imported, keystore)
    write_config(chain, site.config)
    paths = {"--chain": str(chain), "--keystore": str(keystore)}

    def call(command, *arguments, exit_code=0, uses=("--chain", "--keystore")):
        options = [word for name in uses for word in (name, paths[name])]
        given = [str(a) for a in arguments]
        found = run(["chain", command, *given, *options, "--json"])
        told = json.loads(capsys.readouterr().out)
        assert found == exit_code, told
        return told if exit_code == 0 else told["error"]

    return call


@pytest.fixture
def evidence(site, tmp_path):
    path = tmp_path / "evidence"
    path.write_bytes(site.jobs.evidence[site.inputs[0]])
    return path


@pytest.fixture
def row(rows, tmp_path):
    """The row that the first proof is about, as its owner has it."""
    path = tmp_path / "row.json"
    path.write_text(json.dumps([[float(x) for x in rows[540]]]))
    return path


def test_a_row_is_asked_about_answered_and_checked(site, cli, evidence, row, tmp_path):
    model, bundle = site.model_id.hex(), ("--bundle", site.bundle.root)
    asked = cli(
        "request", model, *bundle, "--input", row, "--fee", FEE,
        "--folder", tmp_path, "--allow-insecure-srs",
    )  # fmt: skip
    assert asked["input_commitment"] == f"{site.proofs[0].instances[0]:064x}"
    kept = tmp_path / "inputs" / f"{asked['input_commitment']}.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    look = ("show", asked["request_id"], *bundle)
    assert cli(*look, uses=["--chain"])["state"] == "open"
    proven = cli("verify", model, "--evidence", evidence, *bundle, uses=["--chain"])
    assert len(proven["outputs"]) == 1
    told = cli("deliver", asked["request_id"], "--evidence", evidence, *bundle)
    assert told["credit_wei"] == FEE == site.credit(PROVIDER)
    shown = cli(*look, uses=["--chain"])
    assert (shown["state"], shown["outputs"]) == ("answered", proven["outputs"])
    strange = cli("show", 10**6, *bundle, uses=["--chain"], exit_code=4)
    assert strange["code"] == "unknown-request"
    again = ("deliver", asked["request_id"], "--evidence", evidence, *bundle)
    assert "RequestEnded" in cli(*again, exit_code=5)["message"]


def test_a_changed_proof_is_refused_by_the_chain(site, cli, evidence):
    proof = site.proofs[0].proof.hex()
    flipped = proof[:400] + ("1" if proof[400] == "0" else "0") + proof[401:]
    evidence.write_text(evidence.read_text().replace(proof, flipped))
    arguments = (site.model_id.hex(), "--evidence", evidence, "--bundle")
    told = cli("verify", *arguments, site.bundle.root, exit_code=6, uses=["--chain"])
    assert told["code"] == "proof-invalid"


def test_contracts_are_deployed_and_a_model_registered(
    site, cli, verifier_folder, tmp_path
):
    fresh = tmp_path / "fresh.json"
    told = cli("deploy", "--rpc", site.chain.url, "--chain", fresh, uses=["--keystore"])
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o600
    assert read_config(fresh).contracts == told["contracts"]
    made = cli(
        "register", site.bundle.root, "--verifier", verifier_folder, "--chain", fresh,
        uses=["--keystore"],
    )  # fmt: skip
    assert read_config(fresh).models[made["model_id"]].version == "1"
    refused = cli(
        "deploy", "--rpc", site.chain.url, "--chain", fresh, uses=["--keystore"],
        exit_code=ConflictError.exit_code,
    )  # fmt: skip
    assert refused["code"] == "chain-exists"


def test_a_reusable_verifier_serves_a_model(
    site, cli, bundle, verifier_folder, tmp_path
):
    folder = tmp_path / "reusable"
    shutil.copytree(verifier_folder, folder)
    write_facts(folder, replace(read_facts(folder), chosen="reusable"))
    fresh = tmp_path / "fresh.json"
    cli("deploy", "--rpc", site.chain.url, "--chain", fresh, uses=["--keystore"])
    made = cli(
        "register", bundle.root, "--verifier", folder, "--chain", fresh,
        uses=["--keystore"],
    )  # fmt: skip
    evidence = tmp_path / "evidence"
    evidence.write_bytes(site.jobs.evidence[site.inputs[0]])
    arguments = (made["model_id"], "--evidence", evidence, "--bundle", bundle.root)
    cli("verify", *arguments, "--chain", fresh, uses=[])


def test_a_keystore_is_private_and_never_overwritten(cli, tmp_path, monkeypatch):
    keystore = tmp_path / "keystore.json"
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o600
    assert f"{PROVIDER:064x}" not in keystore.read_text()
    before = keystore.read_bytes()
    cli("account", uses=["--keystore"], exit_code=ConflictError.exit_code)
    assert keystore.read_bytes() == before


def test_a_wrong_password_opens_nothing(site, cli, monkeypatch, tmp_path):
    monkeypatch.setenv("PRIVACY_CHAIN_PASSWORD", "wrong")
    told = cli(
        "deploy", "--rpc", site.chain.url, "--chain", tmp_path / "x.json",
        uses=["--keystore"], exit_code=AuthError.exit_code,
    )  # fmt: skip
    assert "password is wrong" in told["message"]


def test_a_node_that_is_not_there_is_unavailable(cli, tmp_path):
    told = cli(
        "deploy", "--rpc", "http://127.0.0.1:9/secret-key", "--chain",
        tmp_path / "x.json", uses=["--keystore"], exit_code=8,
    )  # fmt: skip
    assert "secret-key" not in told["message"]


@pytest.mark.parametrize("text", ["", "12", "zz" * 32, "ab" * 33])
def test_a_model_id_that_is_none_is_refused(site, cli, evidence, text):
    arguments = ("--evidence", evidence, "--bundle", site.bundle.root, "--", text)
    path = site.folder / "chain.json"
    options = ["--chain", str(path), "--json"]
    given = [str(a) for a in arguments]
    assert run(["chain", "verify", *options, *given]) == FormatError.exit_code


def test_a_chains_file_that_was_changed_is_refused(site, cli, evidence, tmp_path):
    path = tmp_path / "chain.json"
    good = path.read_text()
    arguments = (site.model_id.hex(), "--evidence", evidence, "--bundle")
    changes = {
        "chain/1": "chain/2",
        '"chain_id":31337': '"chain_id":"1"',
        '"registry"': '"registrar"',
        '"version"': '"edition"',
        "{": "[",
    }
    for old, new in changes.items():
        assert old in good
        path.write_text(good.replace(old, new))
        cli("verify", *arguments, site.bundle.root, uses=["--chain"], exit_code=2)
    path.write_text(good.replace("31337", "5"))
    told = cli("verify", *arguments, site.bundle.root, uses=["--chain"], exit_code=7)
    assert told["code"] == "wrong-chain"


def test_loading_the_account_library_leaves_the_recursion_limit():
    code = (
        "import sys; from privacy.chain.account import eth_account; eth_account();"
        "print('py_ecc' in sys.modules, sys.getrecursionlimit())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert said.stdout.split() == [b"True", b"1000"]
