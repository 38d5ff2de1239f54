"""`privacy attest`: what it prints, and its exit codes."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from privacy.cli import run
from privacy.tee.parse import REGISTERS, Measurements
from privacy.tee.simulated_amd import SimulatedAmd
from privacy.tee.simulated_nvidia import SimulatedNvidia
from privacy.tee.simulated_vendors import SimulatedAws
from privacy.tee.simulator import SimulatedTdxAttester

ANYWAY = "--allow-unchecked-collateral"


@pytest.fixture(scope="module")
def quote(tmp_path_factory):
    registers = Measurements(*(bytes([i + 1]) * 48 for i in range(len(REGISTERS))))
    file = tmp_path_factory.mktemp("evidence") / "quote"
    file.write_bytes(SimulatedTdxAttester().quote(bytes(64), registers))
    return file


def verify(capsys, *arguments):
    code = run(["attest", "verify", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_verify_accepts_simulated_evidence_only_on_purpose(capsys, quote):
    code, found = verify(capsys, quote, ANYWAY)
    assert code == 6
    assert found["error"]["code"] == "simulated-evidence"
    assert [c["code"] for c in found["checks"]] == ["ok", "simulated-evidence"]
    code, found = verify(capsys, quote, ANYWAY, "--allow-simulated")
    assert code == 0
    assert found["simulated"]
    assert found["claims"][0]["measurements"]["mrtd"] == "01" * 48
    assert all(check["ok"] for check in found["checks"])


@pytest.mark.parametrize("vendor", ["amd", "aws", "nvidia"])
def test_verify_knows_every_simulated_vendors_evidence(capsys, tmp_path, vendor):
    amd, gpu = SimulatedAmd(shipped=True), SimulatedNvidia(shipped=True)
    evidence, beside = tmp_path / "evidence", tmp_path / "certificates.pem"
    beside.write_bytes(b"".join(map(pem, gpu.chain)))
    makers = {
        "amd": lambda: amd.report(bytes(64)) + amd.table,
        "aws": lambda: SimulatedAws(now=datetime.now(UTC), shipped=True).document(),
        "nvidia": lambda: gpu.report(bytes(32)),
    }
    evidence.write_bytes(makers[vendor]())
    given = ["--collateral", beside] if vendor == "nvidia" else []
    code, found = verify(capsys, evidence, ANYWAY, *given)
    assert (code, found["error"]["code"]) == (6, "simulated-evidence")
    code, found = verify(capsys, evidence, ANYWAY, "--allow-simulated", *given)
    assert code == 0
    assert found["simulated"]
    assert found["claims"][0]["vendor"] == vendor


def pem(der):
    return load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def test_verify_cannot_say_without_collateral(capsys, quote):
    code, found = verify(capsys, quote, "--allow-simulated")
    assert code == 7
    assert found["error"]["code"] == "collateral-missing"


def test_verify_reads_hex_and_base64_too(capsys, quote, tmp_path):
    import base64

    raw = quote.read_bytes()
    for text in (raw.hex(), "0x" + raw.hex() + "\n", base64.b64encode(raw).decode()):
        file = tmp_path / "text"
        file.write_text(text)
        assert verify(capsys, file, ANYWAY, "--allow-simulated")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (["--at", "2060-01-01T00:00:00Z"], 6, "certificate-expired"),
        (["--at", "2025-01-01T00:00:00"], 2, "bad-time"),
        (["--at", "yesterday"], 2, "bad-time"),
        (["--collateral", "/nowhere"], 2, "no-such-file"),
        (["--collateral", __file__], 2, "unknown-collateral"),
    ],
)
def test_verify_fails_with_a_code(capsys, quote, arguments, exit_code, error):
    code, found = verify(capsys, quote, "--allow-simulated", *arguments)
    assert (code, found["error"]["code"]) == (exit_code, error)


def test_verify_prints_the_checks_also_when_one_fails(capsys, quote):
    assert run(["attest", "verify", str(quote)]) == 6
    printed = capsys.readouterr()
    assert "FAIL" in printed.out
    assert "simulated-evidence" in printed.err


def test_verify_says_simulated_on_the_screen(capsys, quote):
    options = [ANYWAY, "--allow-simulated"]
    assert run(["attest", "verify", str(quote), *options]) == 0
    assert "SIMULATED" in capsys.readouterr().out


def test_show_prints_fields(capsys, quote):
    assert run(["attest", "show", str(quote)]) == 0
    assert "report.rtmr0" in capsys.readouterr().out
    assert run(["attest", "show", str(quote), "--json"]) == 0
    (piece,) = json.loads(capsys.readouterr().out)
    assert piece["report"]["rtmr3"] == "05" * 48


def test_show_of_no_evidence_and_no_file_fails(capsys, tmp_path):
    (tmp_path / "x").write_bytes(b"no evidence")
    assert run(["attest", "show", str(tmp_path / "x"), "--json"]) == 2
    assert run(["attest", "show", str(tmp_path / "y"), "--json"]) == 2


def test_verify_takes_a_policy_file_that_says_all(capsys, quote, tmp_path):
    policy = tmp_path / "policy.toml"
    text = "allow_unchecked_collateral = true\n"
    text += f'report_data = "{"00" * 64}"\n[measurements.tdx-v4]\nmrtd = "MRTD"\n'
    arguments = [quote, "--allow-simulated", "--policy", policy]
    policy.write_text(text.replace("MRTD", "01" * 48))
    assert verify(capsys, *arguments)[0] == 0
    code, found = verify(capsys, *arguments, ANYWAY)
    assert (code, found["error"]["code"]) == (2, "usage")
    policy.write_text(text.replace("MRTD", "02" * 48))
    code, found = verify(capsys, *arguments)
    assert (code, found["error"]["code"]) == (6, "measurement-mismatch")


@pytest.fixture
def policy(tmp_path):
    file = tmp_path / "policy.toml"
    text = 'allow_unchecked_collateral = true\nreport_data = "' + "00" * 64
    file.write_text(text + '"\n[measurements.tdx-v4]\nmrtd = "' + "01" * 48 + '"\n')
    return file


def test_a_result_of_verify_is_accepted_by_check_result(
    capsys, quote, policy, tmp_path
):
    home, token, key = (tmp_path / name for name in ("home", "token", "key.jwk"))
    code, found = verify(
        capsys,
        *(quote, "--allow-simulated", "--policy", policy),
        *("--ear", token, "--ear-nonce", "nonce 12", "--home", home),
    )
    assert code == 0
    assert (
        run(["attest", "verifier-key", "--export", str(key), "--home", str(home)]) == 0
    )
    assert (home / "verifier.key").stat().st_mode & 0o777 == 0o600
    capsys.readouterr()

    def check(*arguments):
        code = run(["attest", "check-result", str(token), *arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    trusted = ["--verifier", str(key), "--nonce", "nonce 12"]
    code, found = check(*trusted, "--allow-simulated")
    assert (code, found["simulated"], found["verdict"]) == (0, True, "accepted")
    code, found = check(*trusted)
    assert (code, found["error"]["code"]) == (6, "simulated-evidence")
    code, found = check("--verifier", str(quote))
    assert (code, found["error"]["code"]) == (2, "not-json")
    code, found = check("--verifier", str(tmp_path / "none"))
    assert (code, found["error"]["code"]) == (2, "no-such-file")
    options = [*trusted, "--allow-simulated"]
    assert run(["attest", "check-result", str(token), *options]) == 0
    assert "SIMULATED" in capsys.readouterr().out


def test_a_result_can_go_to_standard_output(capsys, quote, policy, tmp_path):
    options = ["--allow-simulated", "--policy", str(policy), "--ear", "-"]
    home = ["--home", str(tmp_path)]
    assert run(["attest", "verify", str(quote), *options, *home]) == 0
    assert capsys.readouterr().out.count(".") == 2


def test_an_event_log_is_shown_and_replayed(capsys, quote, tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
    from event_logs import event, log

    file = tmp_path / "ccel"
    file.write_bytes(log(event(1, b"an event")))
    options = ["--event-log", str(file)]
    assert run(["attest", "show", str(quote), *options]) == 0
    assert "an event" in capsys.readouterr().out
    assert run(["attest", "show", str(quote), *options, "--json"]) == 0
    pieces = json.loads(capsys.readouterr().out)
    assert pieces[1]["events"][0]["content"] == "an event"
    code, found = verify(capsys, quote, ANYWAY, "--allow-simulated", *options)
    assert (code, found["error"]["code"]) == (6, "event-log-mismatch")
    failed = [check["name"] for check in found["checks"] if not check["ok"]]
    assert failed == [f"event-log rtmr{i}" for i in range(4)]


def test_reference_values_are_signed_and_taken_from_the_manifest(
    capsys, quote, tmp_path
):
    values, manifest, home = (tmp_path / n for n in ("values.toml", "jws", "home"))
    values.write_text(f'[measurements.tdx-v4]\nmrtd = "{"01" * 48}"\n')
    sign = ["attest", "sign-reference-values", str(values), "--output", str(manifest)]
    assert run([*sign, "--home", str(home), "--json"]) == 0
    signer = json.loads(capsys.readouterr().out)["signer"]
    policy = tmp_path / "policy.toml"
    text = "allow_unchecked_collateral = true\nallow_any_report_data = true\n"
    policy.write_text(f'{text}reference_value_signers = ["{signer}"]\n')
    arguments = [quote, "--allow-simulated", "--policy", policy]
    assert verify(capsys, *arguments, "--reference-values", manifest)[0] == 0
    code, found = verify(capsys, *arguments)
    assert (code, found["error"]["code"]) == (7, "reference-values-missing")
    policy.write_text(f'{text}reference_value_signers = ["another"]\n')
    code, found = verify(capsys, *arguments, "--reference-values", manifest)
    assert (code, found["error"]["code"]) == (6, "reference-values-signer")
    code, found = verify(
        capsys, quote, "--allow-simulated", "--reference-values", manifest
    )
    assert (code, found["error"]["code"]) == (2, "usage")
    values.write_text("report_data = 'aa'\n")
    assert run(sign) == 2
