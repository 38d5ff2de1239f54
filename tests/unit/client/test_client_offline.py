"""Receipts offline: what a gateway's own key may sign and still be refused."""

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.cli.app import run
from privacy.client import offline, verify_saved
from privacy.client.home import Home
from privacy.encoding import sha256_hex
from privacy.errors import (
    AppraisalError,
    BackendError,
    UnavailableError,
    VerificationError,
)
from privacy.jws import public_jwk
from privacy.receipt import Receipt, sign_receipt
from privacy.tee import client
from privacy.tee.trust import of_other_kind
from tests.support.hand_made_bundle import write_bundle

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
OUTPUT = b"output"
HONEST = Receipt(
    job_id="j1",
    model="demo",
    version="1",
    model_sha256="a" * 64,
    mode="fhe",
    status="succeeded",
    problem="",
    input_sha256="b" * 64,
    keys_sha256="",
    output_sha256=sha256_hex(OUTPUT),
    evidence_kind="",
    evidence_sha256="",
    node="local",
    simulated=False,
    options={},
    submitted_at="2026-01-01T00:00:00.000Z",
    started_at="2026-01-01T00:00:01.000Z",
    finished_at="2026-01-01T00:00:02.000Z",
)
PROVEN = {
    "mode": "zkml",
    "evidence_kind": "proof",
    "evidence_sha256": sha256_hex(b"proofs"),
}


@pytest.fixture
def saved(tmp_path):
    """Return the verdict on a receipt with changes, signed by a trusted key."""
    home = Home(tmp_path / "home")
    home.pin_keys("http://gateway.test", {"keys": [public_jwk(KEY.public_key())]})
    (tmp_path / "output.bin").write_bytes(OUTPUT)
    (tmp_path / "evidence.json").write_bytes(b"proofs")
    path = tmp_path / "receipt.json"

    def verdict(rows=None, bundle=None, allow=(), **changes):
        path.write_bytes(sign_receipt(dataclasses.replace(HONEST, **changes), KEY))
        allowed = dict.fromkeys(allow, True)
        return verify_saved(path, home=home, rows=rows, bundle=bundle, **allowed)

    return verdict


def test_an_honest_receipt_verifies(saved):
    verdict = saved()
    assert verdict.exit_code == 0
    assert [s.name for s in verdict.steps] == ["signature", "output"]


def test_a_chance_of_error_that_the_publisher_chose_is_said(saved):
    verdict = saved(options={"p_error": 2.0**-14})
    assert verdict.exit_code == 0
    (caveat,) = verdict.caveats
    assert "IND-CPA-D" in caveat


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "zkml"},
        {"mode": "tee"},
        {"mode": "tee", "simulated": True},
        {**PROVEN, "evidence_sha256": ""},
        {**PROVEN, "evidence_kind": ""},
        {**PROVEN, "evidence_kind": "attestation"},
        {**PROVEN, "mode": "fhe"},
        {"mode": "magic"},
        {"mode": ""},
        {"status": "done"},
        {"simulated": True},
        {"output_sha256": ""},
    ],
)
def test_a_signed_receipt_that_cannot_show_what_it_claims_is_false(saved, changes):
    verdict = saved(**changes)
    assert verdict.exit_code == 6
    assert verdict.receipt is None


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_without_an_answer_needs_no_evidence(saved, status):
    changes = {"status": status, "problem": "x", "output_sha256": "", "mode": "zkml"}
    assert saved(**changes).exit_code == 0


def test_rows_that_a_mode_cannot_be_checked_against_are_not_passed_over(saved):
    assert saved(rows=[[1.0, 2.0]]).exit_code == 7


def test_a_model_that_is_not_here_cannot_be_verified(saved):
    verdict = saved(**PROVEN)
    assert verdict.exit_code == 7
    assert "--fetch" in verdict.steps[-1].detail


@pytest.mark.parametrize("error", [BackendError, UnavailableError, VerificationError])
def test_an_engine_that_fails_proves_nothing_false(saved, tmp_path, monkeypatch, error):
    def fail(*_args, **_options):
        raise error("it failed")

    monkeypatch.setattr(offline, "verified_outputs", fail)
    bundle = write_bundle(tmp_path / "models")
    verdict = saved(bundle=bundle.root, model_sha256=bundle.sha256, **PROVEN)
    assert verdict.exit_code == (6 if error is VerificationError else 7)


def _raises(error):
    def fail(*_args, **_options):
        raise error

    return fail


ATTESTED = {**PROVEN, "mode": "tee", "evidence_kind": "attestation"}
INSECURE = AppraisalError("the proofs hold, but", code="insecure-srs")
OF_SIMULATOR = of_other_kind(simulated=True)


@pytest.mark.parametrize(
    ("changes", "error", "allow"),
    [
        (PROVEN, INSECURE, "allow_insecure_srs"),
        ({**ATTESTED, "simulated": True}, OF_SIMULATOR, "allow_simulated"),
    ],
)
def test_what_has_to_be_allowed_is_refused_and_not_called_false(
    saved, tmp_path, monkeypatch, capsys, changes, error, allow
):
    monkeypatch.setattr(offline, "verified_outputs", _raises(error))
    monkeypatch.setattr(client, "verify_job_evidence", _raises(error))
    monkeypatch.setattr(offline, "param", lambda *_: {})
    bundle = write_bundle(tmp_path / "models")
    changes = {"bundle": bundle.root, "model_sha256": bundle.sha256, **changes}
    verdict = saved(**changes)
    assert (verdict.exit_code, verdict.missing_allowances) == (7, (allow,))
    step = verdict.steps[-1]
    assert (step.verdict, step.detail) == ("refused", error.message)
    # Allowed, and of that kind all the same: it is not what it says it is.
    verdict = saved(**changes, allow=[allow])
    assert (verdict.exit_code, verdict.missing_allowances) == (6, ())
    where = [tmp_path / "receipt.json", "--home", tmp_path / "home"]
    assert run(["verify", *map(str, [*where, "--bundle", bundle.root])]) == 7
    said = capsys.readouterr().out
    assert f"--{allow.replace('_', '-')}" in said
    assert "FALSE" not in said


def test_simulated_evidence_of_a_job_that_was_not_simulated_is_false(
    saved, tmp_path, monkeypatch
):
    monkeypatch.setattr(client, "verify_job_evidence", _raises(OF_SIMULATOR))
    monkeypatch.setattr(offline, "param", lambda *_: {})
    bundle = write_bundle(tmp_path / "models")
    verdict = saved(bundle=bundle.root, model_sha256=bundle.sha256, **ATTESTED)
    assert (verdict.exit_code, verdict.missing_allowances) == (6, ())
    assert "disagree" in verdict.steps[-1].detail


@pytest.mark.parametrize(
    ("text", "seen"),
    [("dose,age\n0.5,40\n", [[40, 0.5]]), ("1,2\n", [[1, 2]])],
)
def test_a_file_of_rows_is_read_as_infer_reads_it(
    saved, tmp_path, monkeypatch, text, seen
):
    given = []

    def verified(_bundle, _evidence, rows, **_options):
        given.append(rows.tolist())
        raise VerificationError("enough")

    monkeypatch.setattr(offline, "verified_outputs", verified)
    bundle = write_bundle(tmp_path / "models")
    (tmp_path / "rows.csv").write_text(text)
    changes = {"model_sha256": bundle.sha256, **PROVEN}
    saved(rows=tmp_path / "rows.csv", bundle=bundle.root, **changes)
    assert given == [seen]


@pytest.mark.parametrize("rows", [[[1.0]], [[1.0, float("nan")]], [], [["a", "b"]]])
def test_rows_that_no_model_takes_cannot_be_compared(saved, tmp_path, rows):
    bundle = write_bundle(tmp_path / "models")
    changes = {"model_sha256": bundle.sha256, **PROVEN}
    verdict = saved(rows=rows, bundle=bundle.root, **changes)
    assert verdict.exit_code == 7
    assert "the input cannot be compared" in verdict.steps[-1].detail


def test_a_file_too_large_to_be_a_receipt_is_not_read_whole(saved, tmp_path):
    saved()
    with (tmp_path / "receipt.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    verdict = verify_saved(tmp_path / "receipt.json", home=Home(tmp_path / "home"))
    assert verdict.exit_code == 6


def test_the_command_gives_the_verdicts_exit_code(saved, tmp_path, capsys):
    where = ["verify", str(tmp_path / "receipt.json"), "--home", str(tmp_path / "home")]
    saved()
    assert run(where) == 0
    saved(mode="zkml")
    assert run(where) == 6
    assert "FALSE" in capsys.readouterr().out
    saved(**PROVEN)
    assert run([*where, "--json"]) == 7


def test_a_gateways_own_signature_does_not_make_it_its_peer(saved, tmp_path):
    theirs = sign_receipt(dataclasses.replace(HONEST, job_id="j2"), KEY)
    (tmp_path / "peer-receipt.json").write_bytes(theirs)
    verdict = saved(peer_receipt_sha256=sha256_hex(theirs), node="acme")
    (step,) = [s for s in verdict.steps if s.name == "peer receipt"]
    assert "as the gateway's receipt says" in step.detail
    assert any("a key that is not known here" in c for c in verdict.caveats)
