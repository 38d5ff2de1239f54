"""Real Intel quotes, collected from public repositories."""

from datetime import UTC, datetime

import pytest

from privacy.errors import AppraisalError, FormatError, VerificationError
from privacy.tee.appraise import Policy, appraise
from privacy.tee.parse import parse_tdx_quote
from privacy.tee.trust import hardware_trust_store, simulated_trust_store
from privacy.tee.verify import verify_quote

WHEN = datetime(2025, 7, 1, tzinfo=UTC)
GENUINE = [
    "dcap-qvl/tdx_quote",
    "dcap-qvl/quote-from-tappd.hex",
    "dcap-qvl/tdx-quote.hex",
    "trustee/tdx/tdx_quote_4.dat",
    "trustee/tdx/tdx_quote_6.dat",
]


def read(vectors, name):
    raw = (vectors / name).read_bytes()
    if not name.endswith(".hex"):
        return raw
    return bytes.fromhex(raw.decode().strip().removeprefix("0x"))


@pytest.mark.parametrize("name", GENUINE)
def test_a_real_quote_verifies_against_the_intel_root(vectors, name):
    quote = parse_tdx_quote(read(vectors, name))
    verified = verify_quote(quote, hardware_trust_store(), now=WHEN)
    assert not verified.simulated


@pytest.mark.parametrize("name", GENUINE)
def test_a_real_quote_is_refused_by_the_simulated_store(vectors, name):
    quote = parse_tdx_quote(read(vectors, name))
    with pytest.raises(VerificationError) as caught:
        verify_quote(quote, simulated_trust_store(), now=WHEN)
    assert caught.value.code == "hardware-evidence"


def test_a_real_quote_is_refused_after_its_certificates_expired(vectors):
    quote = parse_tdx_quote(read(vectors, GENUINE[0]))
    with pytest.raises(VerificationError) as caught:
        verify_quote(
            quote, hardware_trust_store(), now=datetime(2032, 3, 1, tzinfo=UTC)
        )
    assert caught.value.code == "certificate-expired"


def test_a_real_quote_with_bytes_behind_it_is_refused(vectors):
    with pytest.raises(FormatError) as caught:
        parse_tdx_quote(read(vectors, "go-tdx-guest/tdx_prod_quote_SPR_E4.dat"))
    assert caught.value.code == "not-canonical"


@pytest.mark.parametrize("name", ["dcap-qvl/sgx_quote", "dcap-qvl/tdx_quote_outdated"])
def test_other_real_quote_formats_are_refused_by_name(vectors, name):
    with pytest.raises(FormatError) as caught:
        parse_tdx_quote(read(vectors, name))
    assert caught.value.code == "unsupported-quote"


def test_a_real_production_quote_meets_a_policy_made_from_it(vectors):
    quote = parse_tdx_quote(read(vectors, GENUINE[0]))
    verified = verify_quote(quote, hardware_trust_store(), now=WHEN)
    report = quote.report
    policy = Policy.expecting(report.measurements, report.report_data)
    assert not appraise(verified, policy).simulated


def test_a_real_debug_quote_is_refused_by_policy(vectors):
    quote = parse_tdx_quote(read(vectors, "trustee/tdx/tdx_quote_4.dat"))
    verified = verify_quote(quote, hardware_trust_store(), now=WHEN)
    report = quote.report
    with pytest.raises(AppraisalError) as caught:
        appraise(verified, Policy.expecting(report.measurements, report.report_data))
    assert caught.value.code == "debug-enclave"


def test_every_byte_in_a_stride_of_a_real_quote_matters(vectors):
    raw = read(vectors, GENUINE[0])
    store = hardware_trust_store()
    for at in range(0, len(raw), 9):
        changed = raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]
        with pytest.raises((FormatError, VerificationError)):
            verify_quote(parse_tdx_quote(changed), store, now=WHEN)
