"""Each step of verification passes on honest evidence and fails on its own lie."""

import random
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from lying_attester import LyingTdxAttester, vouch_for, with_foreign_attestation_key

from privacy.errors import FormatError, VerificationError
from privacy.tee.parse import QuoteHeader, TdReport, parse_tdx_quote
from privacy.tee.simulated_pki import Issued, issue, make_ca, make_leaf, make_root
from privacy.tee.trust import (
    SimulatedTrustStore,
    hardware_trust_store,
    simulated_trust_store,
)
from privacy.tee.verify import verify_quote

# A changed certificate may have a serial number that the library frowns upon.
pytestmark = pytest.mark.filterwarnings(
    "ignore::cryptography.utils.CryptographyDeprecationWarning"
)


@pytest.fixture
def lie(measurements, report_data):
    def make(**lies):
        return LyingTdxAttester(**lies).quote(report_data, measurements)

    return make


def verify(raw, now, store=None):
    return verify_quote(parse_tdx_quote(raw), store or simulated_trust_store(), now=now)


def assert_refused(raw, now, code, store=None):
    with pytest.raises(VerificationError) as caught:
        verify(raw, now, store)
    assert caught.value.code == code


def test_verify_accepts_an_honest_simulated_quote_and_says_so(raw_quote, now):
    verified = verify(raw_quote, now)
    assert verified.simulated
    assert verified.verified_at == now


def test_verify_accepts_what_a_lying_attester_signs_without_a_lie(lie, now):
    assert verify(lie(), now).simulated


def test_verify_refuses_simulated_evidence_with_its_own_code(raw_quote, now):
    assert_refused(raw_quote, now, "simulated-evidence", hardware_trust_store())


def test_verify_refuses_a_root_nobody_pinned(lie, now):
    key = ec.generate_private_key(ec.SECP256R1())
    root = issue("SIMULATED SGX Root CA", key, None, ca_depth=1)
    ca = make_ca(root)
    leaf = make_leaf(ca)
    raw = lie(chain=(leaf.der, ca.der, root.der), pck_key=leaf.key)
    assert_refused(raw, now, "untrusted-root")
    assert verify(raw, now, SimulatedTrustStore(root.der)).simulated


def test_verify_refuses_a_foreign_chain_under_the_pinned_root(lie, now):
    foreign = issue("x", ec.generate_private_key(ec.SECP256R1()), None, ca_depth=1)
    ca = make_ca(foreign)
    leaf = make_leaf(ca)
    raw = lie(chain=(leaf.der, ca.der, make_root().der), pck_key=leaf.key)
    assert_refused(raw, now, "certificate-signature")


def test_verify_refuses_a_leaf_its_ca_did_not_sign(lie, now):
    root = make_root()
    ca = make_ca(root)
    leaf = make_leaf(make_ca(root))  # the same names, another key
    raw = lie(chain=(leaf.der, ca.der, root.der), pck_key=leaf.key)
    assert_refused(raw, now, "certificate-signature")


@pytest.mark.parametrize(
    "when", [datetime(2023, 12, 31, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
def test_verify_refuses_certificates_outside_their_time(raw_quote, when):
    assert_refused(raw_quote, when, "certificate-expired")


def test_verify_refuses_a_time_without_a_zone(raw_quote, now):
    with pytest.raises(FormatError):
        verify(raw_quote, now.replace(tzinfo=None))


def fresh_key():
    return ec.generate_private_key(ec.SECP256R1())


def chain_with_leaf_as_ca():
    root = make_root()
    ca = make_ca(root)
    leaf = issue("PCK", fresh_key(), ca, ca_depth=0, extension=sgx_extension())
    return root, ca, leaf


def chain_with_ca_as_leaf():
    root = make_root()
    ca = issue("CA", fresh_key(), root, ca_depth=None)
    return root, ca, make_leaf(ca)


def chain_without_sgx_extension():
    root = make_root()
    ca = make_ca(root)
    return root, ca, issue("PCK", fresh_key(), ca, ca_depth=None)


def chain_under_too_shallow_a_root():
    root = issue("root", fresh_key(), None, ca_depth=0)
    ca = make_ca(root)
    return root, ca, make_leaf(ca)


def chain_with_an_unknown_critical_extension():
    root = make_root()
    ca = make_ca(root)
    leaf = make_leaf(ca)
    known = leaf.certificate
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    builder = (
        x509.CertificateBuilder()
        .subject_name(known.subject)
        .issuer_name(known.issuer)
        .public_key(known.public_key())
        .serial_number(known.serial_number)
        .not_valid_before(known.not_valid_before_utc)
        .not_valid_after(known.not_valid_after_utc)
        .add_extension(unknown, critical=True)
    )
    for extension in known.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return root, ca, Issued(builder.sign(ca.key, SHA256()), leaf.key)


def sgx_extension():
    leaf = make_leaf(make_ca(make_root()))
    return next(e.value for e in leaf.certificate.extensions if "1.2.840" in str(e.oid))


@pytest.mark.parametrize(
    "make_chain",
    [
        chain_with_leaf_as_ca,
        chain_with_ca_as_leaf,
        chain_without_sgx_extension,
        chain_under_too_shallow_a_root,
        chain_with_an_unknown_critical_extension,
    ],
)
def test_verify_refuses_certificates_in_the_wrong_role(lie, now, make_chain):
    root, ca, leaf = make_chain()
    raw = lie(chain=(leaf.der, ca.der, root.der), pck_key=leaf.key)
    assert_refused(raw, now, "certificate-role", SimulatedTrustStore(root.der))


def test_verify_refuses_keys_that_are_not_on_p256(lie, now):
    root = make_root()
    ca = make_ca(root)
    leaf = issue(
        "PCK",
        ec.generate_private_key(ec.SECP384R1()),
        ca,
        ca_depth=None,
        extension=sgx_extension(),
    )
    raw = lie(chain=(leaf.der, ca.der, root.der))
    assert_refused(raw, now, "certificate-malformed")


def test_verify_refuses_a_leaf_that_is_no_certificate(lie, now):
    root = make_root()
    raw = lie(chain=(b"no certificate", make_ca(root).der, root.der))
    assert_refused(raw, now, "certificate-malformed")


def test_verify_refuses_a_qe_report_signed_by_another_key(lie, now):
    assert_refused(lie(pck_key=fresh_key()), now, "qe-signature")


@pytest.mark.parametrize(
    "qe",
    [
        pytest.param({128: bytes(32)}, id="another signer"),
        pytest.param({256: b"\x01\x00"}, id="another product"),
        pytest.param({48: b"\x13"}, id="debug mode"),
        pytest.param({48: b"\x10"}, id="not initialised"),
    ],
)
def test_verify_refuses_a_quoting_enclave_of_someone_else(lie, now, qe):
    assert_refused(lie(qe=qe), now, "qe-identity")


@pytest.mark.parametrize(
    "qe",
    [pytest.param({320: bytes(32)}, id="hash"), pytest.param({383: b"\1"}, id="tail")],
)
def test_verify_refuses_a_qe_that_does_not_vouch_for_the_key(lie, now, qe):
    assert_refused(lie(qe=qe), now, "qe-binding")


def test_verify_refuses_a_swapped_attestation_key(raw_quote, now):
    assert_refused(with_foreign_attestation_key(raw_quote), now, "qe-binding")


def test_verify_refuses_an_attestation_key_off_the_curve(
    measurements, report_data, now
):
    attester = LyingTdxAttester()
    raw = attester.quote(report_data, measurements)
    assert_refused(vouch_for(attester, raw, bytes(64)), now, "quote-signature")


@pytest.mark.parametrize("field", [f.name for f in fields(TdReport)])
def test_verify_refuses_a_report_changed_after_signing(raw_quote, now, field):
    quote = parse_tdx_quote(raw_quote)
    changed = bytes(b ^ 1 for b in getattr(quote.report, field))
    report = replace(quote.report, **{field: changed})
    assert_refused(replace(quote, report=report).to_bytes(), now, "quote-signature")


@pytest.mark.parametrize("field", ["qe_svn", "pce_svn", "user_data"])
def test_verify_refuses_a_header_changed_after_signing(raw_quote, now, field):
    quote = parse_tdx_quote(raw_quote)
    value = bytes(20) if field == "user_data" else 7
    header = replace(quote.header, **{field: value})
    assert isinstance(header, QuoteHeader)
    assert_refused(replace(quote, header=header).to_bytes(), now, "quote-signature")


def test_no_byte_flip_of_a_quote_ever_verifies(raw_quote, now):
    source = random.Random(20261121)
    store = simulated_trust_store()
    padded = raw_quote + bytes(70)
    for _ in range(2000):
        changed = bytearray(padded)
        changed[source.randrange(len(changed))] ^= source.randrange(1, 256)
        with pytest.raises((FormatError, VerificationError)):
            verify_quote(parse_tdx_quote(bytes(changed)), store, now=now)


def test_verification_time_is_the_argument_not_the_clock(raw_quote):
    when = datetime(2049, 12, 31, tzinfo=UTC) - timedelta(days=1)
    assert verify(raw_quote, when).verified_at == when


def test_verify_refuses_a_certificate_of_an_unknown_version(lie, now):
    root = make_root()
    ca = make_ca(root)
    leaf = make_leaf(ca)
    third, fourth = (bytes.fromhex(f"a0030201{v}") for v in ("02", "03"))
    odd = leaf.der.replace(third, fourth, 1)
    assert odd != leaf.der
    raw = lie(chain=(odd, ca.der, root.der), pck_key=leaf.key)
    assert_refused(raw, now, "certificate-malformed")
