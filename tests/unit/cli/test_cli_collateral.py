"""`privacy attest collateral`, and `attest verify --fetch`, against a local service."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privacy.cli import run
from privacy.tee.parse import REGISTERS, Measurements
from privacy.tee.services import SERVICES
from privacy.tee.simulated_composite import compose
from privacy.tee.simulated_nvidia import SimulatedNvidia
from privacy.tee.simulator import SimulatedTdxAttester

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from vendor_services import VendorServices


@pytest.fixture(scope="module")
def intel():
    return SimulatedTdxAttester()


@pytest.fixture(scope="module")
def quote(tmp_path_factory, intel):
    registers = Measurements(*(bytes([i + 1]) * 48 for i in range(len(REGISTERS))))
    file = tmp_path_factory.mktemp("evidence") / "quote"
    file.write_bytes(intel.quote(bytes(64), registers))
    return file


@pytest.fixture
def services(intel):
    with VendorServices(intel=intel, now=datetime.now(UTC)) as running:
        yield running


def ran(capsys, *arguments):
    code = run(["attest", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def addresses(services):
    names = ("intel", "intel-certificates")
    return [x for n in names for x in ("--service", f"{n}={services.url}")]


def test_fetch_keeps_what_verifies_offline(capsys, quote, services, tmp_path):
    where = ["--cache", tmp_path, "--allow-simulated", *addresses(services)]
    code, found = ran(capsys, "collateral", "fetch", quote, *where)
    assert code == 0
    assert all(entry["counts"] for entry in found)
    offline = ["--collateral", tmp_path, "--allow-simulated"]
    code, found = ran(capsys, "verify", quote, *offline)
    assert (code, found["claims"][0]["tcb_status"]) == (0, "UpToDate")
    code, found = ran(capsys, "collateral", "show", tmp_path, "--at", "2020-01-01T00Z")
    assert code == 0
    assert {e["kind"] for e in found} >= {"crl", "tcb-info", "qe-identity"}
    assert not any(entry["counts"] for entry in found)


def test_verify_asks_the_vendors_only_when_told_to(capsys, quote, services, tmp_path):
    where = ["--cache", tmp_path, "--allow-simulated", *addresses(services)]
    assert ran(capsys, "verify", quote, *where)[0] == 7
    assert not services.asked
    assert ran(capsys, "verify", quote, *where, "--fetch")[0] == 0
    assert ran(capsys, "verify", quote, *where, "--fetch")[0] == 0
    assert len(services.asked) == 4


def test_verify_says_which_service_failed(capsys, quote, services, tmp_path):
    services.misbehave("/tcb?", "status 404")
    where = ["--cache", tmp_path, "--allow-simulated", *addresses(services)]
    code, found = ran(capsys, "verify", quote, *where, "--fetch")
    assert (code, found["error"]["code"]) == (4, "collateral-not-found")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (["show", "missing"], 2, "no-such-file"),
        (["show", "--at", "now"], 2, "bad-time"),
        (["fetch", "missing"], 2, "no-such-file"),
        (["fetch", __file__], 2, "unknown-format"),
    ],
)
def test_wrong_arguments_are_typed_errors(capsys, arguments, exit_code, code):
    found = ran(capsys, "collateral", *arguments)
    assert (found[0], found[1]["error"]["code"]) == (exit_code, code)


def test_an_unknown_service_is_a_usage_error(capsys, quote):
    found = ran(capsys, "collateral", "fetch", quote, "--service", "arm=https://x")
    assert (found[0], found[1]["error"]["code"]) == (2, "usage")


def test_tables_are_for_people(capsys, quote, services, tmp_path):
    where = ["--cache", str(tmp_path), "--allow-simulated", *addresses(services)]
    assert run(["attest", "collateral", "fetch", str(quote), *where]) == 0
    shown = capsys.readouterr()
    assert "tcb-info" in shown.out
    assert str(tmp_path) in shown.out.replace("\n", "")
    assert "asking for tcb-info" in shown.err


def test_a_composite_is_fetched_for_verified_and_shown(capsys, intel, tmp_path):
    registers = Measurements(*(bytes([i + 1]) * 48 for i in range(len(REGISTERS))))
    gpu = SimulatedNvidia(shipped=True)
    made = compose(
        intel, [gpu], nonce=bytes(32), bound=bytes(64), measurements=registers
    )
    file = tmp_path / "composite.json"
    file.write_bytes(made.to_bytes())
    with VendorServices(intel=intel, nvidia=gpu, now=datetime.now(UTC)) as services:
        where = [x for n in SERVICES for x in ("--service", f"{n}={services.url}")]
        options = ["--cache", tmp_path / "kept", "--allow-simulated"]
        assert ran(capsys, "collateral", "fetch", file, *options, *where)[0] == 0
    offline = ["--collateral", tmp_path / "kept", "--allow-simulated"]
    code, found = ran(capsys, "verify", file, *offline)
    assert code == 0
    assert [c["vendor"] for c in found["claims"]] == ["intel", "nvidia"]
    assert "device-binding" in {check["name"] for check in found["checks"]}
    assert [p["format"] for p in ran(capsys, "show", file)[1]] == [
        "tdx-v4",
        "nvidia-spdm-1.1",
    ]
