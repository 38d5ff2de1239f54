"""The main job with real engines: publish once, ask in every mode, check here."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from privacy.client import AsyncClient, Client, verify_saved
from privacy.client.home import Home
from privacy.errors import (
    AppraisalError,
    AuthError,
    FormatError,
    NotFoundError,
    PrivacyError,
    VerificationError,
)

MODES = ("fhe", "zkml", "tee", "tee+zkml")


@pytest.fixture(scope="module")
def answers(owner, diagnosis):
    rows = diagnosis.rows[:5].tolist()
    return {mode: owner.infer(diagnosis.name, rows, mode=mode) for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_agrees_with_the_clear_model(answers, diagnosis, mode):
    expected = diagnosis.model.predict_proba(diagnosis.rows[:5])
    got = np.array([row.probabilities for row in answers[mode].rows])
    assert np.abs(got - expected).max() < 0.02
    classes = diagnosis.bundle.manifest.classes
    assert [r.label for r in answers[mode].rows] == [
        classes[i] for i in expected.argmax(1)
    ]


def test_each_answer_says_what_was_checked_and_who_saw_what(answers):
    names = {mode: {c.name for c in answers[mode].checks} for mode in MODES}
    for mode in MODES:
        assert {"model-digest", "receipt-signature", "receipt-binding"} <= names[mode]
    assert "decrypted-here" in names["fhe"]
    assert {"proof", "proof-output", "proof-input"} <= names["zkml"]
    assert {"attestation", "enclave-signature"} <= names["tee"]
    assert answers["tee"].simulated
    assert not answers["fhe"].simulated
    assert answers["fhe"].who_sees_what.operator_sees_input.startswith("no")
    assert answers["zkml"].who_sees_what.operator_sees_input.startswith("yes")


@pytest.mark.parametrize("mode", MODES)
def test_each_receipt_verifies_offline_and_no_byte_may_change(answers, owner, mode):
    path = answers[mode].receipt
    owner.fetch_log_entries([path])
    verdict = verify_saved(
        path,
        home=owner.home,
        log=True,
        allow_simulated=True,
        allow_insecure_srs=True,
    )
    assert verdict.exit_code == 0, verdict.steps
    assert [s.name for s in verdict.steps][:2] == ["log", "log-consistency"]
    raw = path.read_bytes()
    for at in range(0, len(raw), 37):
        changed = path.with_name("changed.json")
        changed.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        verdict = verify_saved(
            changed, home=owner.home, allow_simulated=True, allow_insecure_srs=True
        )
        assert verdict.exit_code == 6


@pytest.mark.parametrize("mode", MODES)
def test_changed_output_or_evidence_is_found_offline(answers, owner, tmp_path, mode):
    for source in answers[mode].receipt.parent.glob("*"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    for name in ("output.bin", "evidence.json"):
        path = tmp_path / name
        if not path.exists():
            continue
        good = path.read_bytes()
        path.write_bytes(good[:-2] + bytes([good[-2] ^ 1]) + good[-1:])
        receipt = tmp_path / "receipt.json"
        verdict = verify_saved(
            receipt, home=owner.home, allow_simulated=True, allow_insecure_srs=True
        )
        assert verdict.exit_code == 6
        path.unlink()
        verdict = verify_saved(
            receipt, home=owner.home, allow_simulated=True, allow_insecure_srs=True
        )
        assert verdict.exit_code == 7
        path.write_bytes(good)


def test_a_stranger_with_no_keys_cannot_say(answers, tmp_path):
    verdict = verify_saved(answers["fhe"].receipt, home=Home(tmp_path))
    assert verdict.exit_code == 7


def test_proofs_are_about_the_input_that_was_given(answers, owner, diagnosis):
    path = answers["zkml"].receipt
    mine, other = diagnosis.rows[:5].tolist(), diagnosis.rows[5:10].tolist()
    for rows, code in ((mine, 0), (other, 6)):
        verdict = verify_saved(
            path, home=owner.home, rows=rows, allow_insecure_srs=True
        )
        assert verdict.exit_code == code, verdict.steps
    verdict = verify_saved(path, home=owner.home, rows=mine)
    assert verdict.exit_code == 7
    assert verdict.missing_allowances == ("allow_insecure_srs",)


def test_simulated_evidence_is_refused_unless_allowed(gateway, diagnosis, tmp_path):
    with (
        Client(gateway.base_url, api_key=gateway.admin_key, home=tmp_path) as strict,
        pytest.raises(VerificationError) as caught,
    ):
        strict.infer(diagnosis.name, diagnosis.rows[:1].tolist(), mode="tee")
    assert caught.value.code == "simulated-evidence"


def test_the_asynchronous_client_answers_alike(gateway, diagnosis, answers, tmp_path):
    async def ask():
        async with AsyncClient(
            gateway.base_url,
            api_key=gateway.admin_key,
            home=tmp_path,
            allow_simulated=True,
            allow_insecure_srs=True,
        ) as client:
            rows = diagnosis.rows[:5].tolist()
            return await asyncio.gather(
                client.infer(diagnosis.name, rows, mode="tee"),
                client.infer(diagnosis.name, rows, mode="fhe"),
            )

    for answer in asyncio.run(ask()):
        assert [r.label for r in answer.rows] == [r.label for r in answers["tee"].rows]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("row", "code"),
    [
        ([1.0] * 29, "wrong-feature-count"),
        ([1.0] * 31, "wrong-feature-count"),
        ([float("nan")] * 30, "not-finite"),
        ([float("inf")] * 30, "not-finite"),
        (["a"] * 30, "not-a-number"),
    ],
)
def test_bad_rows_never_leave_the_client(owner, diagnosis, mode, row, code):
    with pytest.raises(FormatError) as caught:
        owner.infer(diagnosis.name, [row], mode=mode)
    assert caught.value.code == code


def test_values_outside_the_calibrated_range_are_refused_or_named(
    owner, gateway, diagnosis, answers
):
    assert not any("outside the range" in c for c in answers["fhe"].caveats)
    row = diagnosis.rows[0].tolist()
    row[3] = 1e6
    column = diagnosis.bundle.manifest.columns[3].name
    with pytest.raises(FormatError, match=column) as caught:
        owner.infer(diagnosis.name, [row], mode="fhe")
    assert caught.value.code == "out-of-range"
    with Client(
        gateway.base_url,
        api_key=gateway.admin_key,
        home=owner.home.root,
        allow_out_of_range=True,
    ) as lenient:
        answer = lenient.infer(diagnosis.name, [row], mode="fhe")
    assert any(column in c and "clips" in c for c in answer.caveats)


def test_unknown_models_and_modes_are_not_found(owner, diagnosis):
    rows = diagnosis.rows[:1].tolist()
    with pytest.raises(NotFoundError):
        owner.infer("no-such-model", rows, mode="fhe")
    with pytest.raises(NotFoundError, match="choose one of"):
        owner.infer(diagnosis.name, rows, mode="magic")


def test_a_pinned_digest_must_match(owner, diagnosis):
    with pytest.raises(VerificationError) as caught:
        owner.infer(f"{diagnosis.name}@{'0' * 64}", diagnosis.rows[:1], mode="fhe")
    assert caught.value.code == "model-changed"
    good = f"{diagnosis.name}/1@{diagnosis.bundle.sha256}"
    assert owner.infer(good, diagnosis.rows[:1].tolist(), mode="fhe").rows


def test_no_key_and_wrong_scope_are_told_apart(gateway, diagnosis, tmp_path):
    rows = diagnosis.rows[:1].tolist()
    url = gateway.base_url
    with Client(url, home=tmp_path) as client, pytest.raises(AuthError):
        client.infer(diagnosis.name, rows, mode="fhe")
    reader = gateway.new_key("models:read")
    with (
        Client(url, api_key=reader, home=tmp_path, allow_insecure_srs=True) as client,
        pytest.raises(PrivacyError) as caught,
    ):
        client.infer(diagnosis.name, rows, mode="zkml")
    assert caught.value.code == "missing-scope"


def run_cli(*args, home, gateway=None):
    environment = {**os.environ, "PRIVACY_HOME": str(home)}
    if gateway:
        environment |= {
            "PRIVACY_GATEWAY": gateway.base_url,
            "PRIVACY_API_KEY": gateway.admin_key,
        }
    return subprocess.run(
        [sys.executable, "-m", "privacy", *map(str, args)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_command_line_infers_and_verifies(gateway, diagnosis, tmp_path, mode):
    rows = tmp_path / "rows.csv"
    names = [c.name for c in diagnosis.bundle.manifest.columns]
    lines = [",".join(names)]
    lines += [",".join(map(str, row)) for row in diagnosis.rows[:2]]
    rows.write_text("\n".join(lines))
    args = ["infer", diagnosis.name, "--mode", mode, "--input", rows, "--json"]
    done = run_cli(
        *args,
        "--allow-simulated",
        "--allow-insecure-srs",
        home=tmp_path,
        gateway=gateway,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["rows"]) == 2
    assert answer["who_sees_what"]
    verify = ["verify", answer["receipt"], "--allow-simulated", "--allow-insecure-srs"]
    assert run_cli(*verify, home=tmp_path).returncode == 0
    receipt = Path(answer["receipt"])
    raw = bytearray(receipt.read_bytes())
    raw[200] ^= 4
    receipt.write_bytes(raw)
    flipped = run_cli(*verify, "--json", home=tmp_path)
    assert flipped.returncode == 6
    assert json.loads(flipped.stdout)["exit_code"] == 6


def test_proofs_are_checked_alone_and_the_circuit_is_rebuilt(
    answers, owner, diagnosis, tmp_path
):
    rows = tmp_path / "rows.npy"
    np.save(rows, diagnosis.rows[: len(answers["zkml"].rows)])
    proof = answers["zkml"].receipt.with_name("evidence.json")
    args = ("zk", "verify", proof, "--input", rows, "--home", owner.home.root, "--json")
    refused = run_cli(*args, home=tmp_path)
    assert refused.returncode == 7
    assert json.loads(refused.stdout)["error"]["code"] == "insecure-srs"
    done = run_cli(*args, "--allow-insecure-srs", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    proven = json.loads(done.stdout)
    assert proven["model_sha256"] == diagnosis.bundle.sha256
    assert [r["label"] for r in proven["rows"]] == [
        r.label for r in answers["zkml"].rows
    ]
    audited = run_cli("zk", "audit", diagnosis.bundle.root, "--json", home=tmp_path)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    assert len(json.loads(audited.stdout)["checks"]) == 6


def test_a_zkml_answer_under_an_insecure_srs_is_refused_unless_allowed(
    gateway, diagnosis, tmp_path
):
    key = gateway.new_key("models:read", "jobs:read", "jobs:write", tenant="strict")
    with Client(gateway.base_url, api_key=key, home=tmp_path) as strict:
        for mode in ("zkml", "tee+zkml"):
            with pytest.raises(AppraisalError, match="nothing was sent") as caught:
                strict.infer(diagnosis.name, diagnosis.rows[:1], mode=mode)
            assert caught.value.code == "insecure-srs"
        assert strict.uploads()["uploads"] == strict.jobs() == []


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("infer", "none-such", "--mode", "fhe", "--input", "ROWS"), 4),
        (("infer", "breast-cancer", "--mode", "none", "--input", "ROWS"), 4),
        (("infer", "breast-cancer", "--mode", "fhe", "--input", "missing.csv"), 2),
        (("infer", "breast-cancer", "--mode", "fhe", "--input", "EMPTY"), 2),
        (("jobs", "job_nope"), 4),
        (("models", "Bad Name"), 2),
    ],
)
def test_commands_fail_with_the_documented_exit_code(gateway, tmp_path, args, code):
    files = {"ROWS": "1,2\n", "EMPTY": ""}
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    real = [str(tmp_path / f"{a}.csv") if a in files else a for a in args]
    done = run_cli(*real, "--json", home=tmp_path, gateway=gateway)
    assert done.returncode == code, done.stdout + done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == code


def test_an_unreachable_gateway_and_a_wrong_key_have_exit_codes(gateway, tmp_path):
    away = run_cli("models", "--gateway", "http://127.0.0.1:9", home=tmp_path)
    assert away.returncode == 8
    wrong = run_cli(
        "models", "--gateway", gateway.base_url, "--api-key", "pk_no", home=tmp_path
    )
    assert wrong.returncode == 3
