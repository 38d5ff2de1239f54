"""A policy is met in every point or refused with every failure named."""

from dataclasses import replace

import pytest
from lying_attester import LyingTdxAttester

from privacy.errors import AppraisalError
from privacy.tee.appraise import Policy, appraise
from privacy.tee.parse import REGISTERS, parse_tdx_quote
from privacy.tee.trust import simulated_trust_store
from privacy.tee.verify import verify_quote


@pytest.fixture
def evidence(measurements, report_data, now):
    def make(**lies):
        raw = LyingTdxAttester(**lies).quote(report_data, measurements)
        return verify_quote(parse_tdx_quote(raw), simulated_trust_store(), now=now)

    return make


@pytest.fixture
def policy(measurements, report_data):
    return Policy.expecting(measurements, report_data, allow_simulated=True)


def refused(verified, policy):
    with pytest.raises(AppraisalError) as caught:
        appraise(verified, policy)
    failed = [check for check in caught.value.checks if not check.ok]
    assert caught.value.code == failed[0].code
    return [check.code for check in failed]


def test_appraise_accepts_exactly_what_the_policy_asks_for(
    evidence, policy, measurements, report_data
):
    result = appraise(evidence(), policy)
    assert result.simulated
    assert not result.tcb_status
    assert result.measurements == measurements
    assert result.report_data == report_data
    assert all(check.ok for check in result.checks)
    assert {c.name for c in result.checks} >= {*REGISTERS, "report-data", "debug"}
    assert result.as_dict()["measurements"] == measurements.as_dict()


def test_an_empty_policy_accepts_nothing(evidence):
    codes = refused(evidence(), Policy())
    assert codes == ["simulated-evidence", *["no-reference-value"] * 6]


@pytest.mark.parametrize("name", REGISTERS)
def test_appraise_refuses_another_register(evidence, policy, name):
    changed = replace(policy, **{name: b"\xff" * 48})
    assert refused(evidence(), changed) == [f"{name}-mismatch"]


@pytest.mark.parametrize("name", REGISTERS)
def test_appraise_refuses_a_register_that_an_attester_reports(evidence, policy, name):
    lying = evidence(report={name: bytes(48)})
    assert refused(lying, policy) == [f"{name}-mismatch"]


@pytest.mark.parametrize("name", [*REGISTERS, "report_data"])
@pytest.mark.parametrize("value", [b"", bytes(47), bytes(65)])
def test_appraise_refuses_a_policy_that_lacks_a_value(evidence, policy, name, value):
    assert refused(evidence(), replace(policy, **{name: value})) == [
        "no-reference-value"
    ]


def test_appraise_refuses_other_report_data(evidence, policy):
    changed = replace(policy, report_data=bytes(64))
    assert refused(evidence(), changed) == ["report-data-mismatch"]


def test_appraise_refuses_simulated_evidence_unless_the_policy_allows(evidence, policy):
    changed = replace(policy, allow_simulated=False)
    assert refused(evidence(), changed) == ["simulated-evidence"]


@pytest.mark.parametrize("bit", range(8))
def test_appraise_refuses_debug_unless_the_policy_allows(evidence, policy, bit):
    lying = evidence(
        report={"td_attributes": bytes([1 << bit, 0, 0, 0x10, 0, 0, 0, 0])}
    )
    assert refused(lying, policy) == ["debug-enclave"]
    assert appraise(lying, replace(policy, allow_debug=True)).checks


def test_appraise_refuses_a_guest_that_its_host_can_migrate(evidence, policy):
    lying = evidence(report={"td_attributes": bytes([0, 0, 0, 0x30, 0, 0, 0, 0])})
    assert refused(lying, policy) == ["debug-enclave"]


@pytest.mark.parametrize(
    "report", [{"mrsignerseam": b"\1" * 48}, {"seam_attributes": b"\1" + bytes(7)}]
)
def test_appraise_refuses_a_tdx_module_that_is_not_intels(evidence, policy, report):
    assert refused(evidence(report=report), policy) == ["tdx-module-unknown"]


def test_appraise_reports_all_failures_together(evidence, policy):
    lying = evidence(report={"mrtd": bytes(48), "td_attributes": b"\1" + bytes(7)})
    with pytest.raises(AppraisalError) as caught:
        appraise(lying, replace(policy, rtmr2=bytes(48)))
    assert "debug is on" in caught.value.message
    assert "mrtd is 0000" in caught.value.message
    assert "rtmr2 is 0404" in caught.value.message
