"""Chains, CRLs and extensions with one odd thing in them, properly signed."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from privacy.errors import FormatError, PrivacyError, VerificationError
from privacy.tee import simulated_pki as pki
from privacy.tee import trust
from privacy.tee.chain import INTEL, SGX_EXTENSION, public_key, verify_chain
from privacy.tee.der import SEQUENCE
from privacy.tee.pck import platform_of
from privacy.tee.revocation import check_revocation
from privacy.tee.signature import check_raw_signature
from privacy.tee.simulated_collateral import Defects, simulated_collateral

P256 = bytes.fromhex("2a8648ce3d030107")
WITH_SHA256, WITH_SHA384 = (bytes.fromhex(f"2a8648ce3d0403{n}") for n in ("02", "03"))
BASIC, USAGE = bytes.fromhex("0603551d13"), bytes.fromhex("0603551d0f")
pytestmark = pytest.mark.filterwarnings(
    "ignore::cryptography.utils.CryptographyDeprecationWarning"
)


@pytest.fixture(scope="module")
def root():
    return pki.make_root()


@pytest.fixture(scope="module")
def ca(root):
    return pki.make_ca(root)


@pytest.fixture(scope="module")
def leaf(ca):
    return pki.make_leaf(ca)


def resigned(certificate, issuer, old, new, *, digest=None, count=1):
    """The certificate with bytes of equal length changed, signed again."""
    tbs = certificate.certificate.tbs_certificate_bytes
    assert old in tbs
    assert len(old) == len(new)
    tbs = tbs.replace(old, new, count)
    algorithm = WITH_SHA384 if digest else WITH_SHA256
    signature = issuer.key.sign(tbs, ec.ECDSA(digest or SHA256()))
    inner = pki._tlv(SEQUENCE, pki._tlv(6, algorithm))
    return pki._tlv(SEQUENCE, tbs, inner, pki._tlv(3, b"\0" + signature))


def refused(chain, root, now, rules=INTEL):
    with pytest.raises(PrivacyError) as caught:
        verify_chain(chain, roots=[root.der], rules=rules, now=now)
    return caught.value.code


def test_an_honest_chain_holds(root, ca, leaf, now):
    same = resigned(leaf, ca, b"\x06", b"\x06")
    for first in (leaf.der, same):
        chain = verify_chain(
            [first, ca.der, root.der], roots=[root.der], rules=INTEL, now=now
        )
        assert len(chain) == 3


def test_a_time_without_a_zone_is_refused(root, ca, leaf, now):
    naive = now.replace(tzinfo=None)
    assert refused([leaf.der, ca.der, root.der], root, naive) == "malformed"


def test_a_chain_with_a_certificate_twice_is_refused(root, ca, leaf, now):
    chain = [leaf.der, ca.der, root.der, root.der]
    assert refused(chain, root, now) == "certificate-role"


def test_a_signature_over_another_digest_is_refused(root, ca, leaf, now):
    changed = resigned(leaf, ca, WITH_SHA256, WITH_SHA384, digest=SHA384())
    assert refused([changed, ca.der, root.der], root, now) == "certificate-signature"


def test_a_key_on_an_unknown_curve_is_refused(root, ca, leaf, now):
    unknown = P256[:-1] + b"\x7f"
    changed = resigned(leaf, ca, P256, unknown)
    assert refused([changed, ca.der, root.der], root, now) == "certificate-malformed"
    odd = x509.load_der_x509_certificate(changed)
    with pytest.raises(VerificationError):
        public_key(odd)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(BASIC, USAGE, id="key usage twice"),
        pytest.param(BASIC, bytes.fromhex("0603551d7f"), id="no basic constraints"),
        pytest.param(USAGE, bytes.fromhex("0603551d7f"), id="no key usage"),
        pytest.param(
            USAGE + b"\x01\x01\xff\x04\x04\x03", USAGE + b"\x01\x01\xff\x04\x04\x02"
        ),
    ],
)
def test_constraints_that_lack_or_are_malformed_are_refused(
    root, ca, leaf, now, old, new
):
    changed = resigned(leaf, ca, old, new)
    assert refused([changed, ca.der, root.der], root, now) == "certificate-role"


def test_a_leaf_without_the_vendors_extension_is_refused(root, ca, now):
    bare = pki.issue("PCK", ec.generate_private_key(ec.SECP256R1()), ca, ca_depth=None)
    assert refused([bare.der, ca.der, root.der], root, now) == "certificate-role"


def test_a_public_key_that_is_not_elliptic_is_refused(ca):
    key = ed25519.Ed25519PrivateKey.generate()
    builder = (
        x509.CertificateBuilder()
        .subject_name(ca.certificate.subject)
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ca.certificate.not_valid_before_utc)
        .not_valid_after(ca.certificate.not_valid_after_utc)
    )
    with pytest.raises(VerificationError) as caught:
        public_key(builder.sign(ca.key, SHA256()))
    assert caught.value.code == "certificate-malformed"


def sgx(old, new):
    """A PCK extension with bytes changed."""
    raw = pki._sgx_extension()
    assert old in raw
    return raw.replace(old, new, 1)


BASE = bytes.fromhex("2a864886f84d010d01")


@pytest.mark.parametrize(
    "extension",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x30\x00", id="no values"),
        pytest.param(sgx(BASE + b"\x04\x04\x06", BASE + b"\x09\x04\x06"), id="FMSPC"),
        pytest.param(sgx(BASE + b"\x03\x04\x02", BASE + b"\x03\x02\x02"), id="type"),
        pytest.param(
            sgx(BASE + b"\x02\x01\x02\x01", BASE + b"\x02\x01\x04\x01"), id="SVN type"
        ),
        pytest.param(
            sgx(BASE + b"\x03\x04\x02\0\0", BASE + b"\x03\x04\x02\0"), id="truncated"
        ),
        pytest.param(
            b"\x30\x82" + (len(pki._sgx_extension()) - 4 - 4).to_bytes(2, "big"),
            id="length",
        ),
    ],
)
def test_a_platform_is_read_only_from_the_extension_as_specified(ca, extension):
    key = ec.generate_private_key(ec.SECP256R1())
    value = x509.UnrecognizedExtension(SGX_EXTENSION, extension)
    pck = pki.issue("PCK", key, ca, ca_depth=None, extension=value)
    with pytest.raises(VerificationError) as caught:
        platform_of(pck.certificate)
    assert caught.value.code == "certificate-malformed"


def test_a_platform_with_values_of_other_sizes_is_refused(ca):
    octets = pki._tlv(4, bytes(5))
    base = SGX_EXTENSION.dotted_string
    svns = [pki._pair(f"{base}.2.{i}", pki._integer(1)) for i in range(1, 18)]
    pairs = [pki._pair(f"{base}.{i}", octets) for i in (1, 3, 4)]
    pairs.append(pki._pair(f"{base}.2", pki._tlv(SEQUENCE, *svns)))
    value = x509.UnrecognizedExtension(SGX_EXTENSION, pki._tlv(SEQUENCE, *pairs))
    key = ec.generate_private_key(ec.SECP256R1())
    pck = pki.issue("PCK", key, ca, ca_depth=None, extension=value)
    with pytest.raises(VerificationError):
        platform_of(pck.certificate)


def test_a_malformed_revocation_list_does_not_count(root, ca, leaf, now):
    chain = [x.certificate for x in (leaf, ca, root)]
    given = simulated_collateral(ca, now=now, defects=Defects()).crls
    assert check_revocation(chain, given, now=now)
    # An issuer's name that is not UTF-8, and lists of another time.
    odd = [crl.replace(b"Simulated, not", b"\xffimulated, not", 1) for crl in given]
    assert odd != list(given)
    assert not check_revocation(chain, odd, now=now)
    assert not check_revocation(chain, given, now=now + timedelta(days=31))


def test_a_raw_signature_of_another_length_is_refused(ca):
    with pytest.raises(VerificationError) as caught:
        check_raw_signature(
            ca.key.public_key(), bytes(63), b"", code="report-signature", what="no"
        )
    assert caught.value.code == "report-signature"


def test_a_shipped_root_that_was_changed_is_noticed(monkeypatch):
    monkeypatch.setitem(trust._PINS, "aws_nitro_root.pem", ("00",))
    with pytest.raises(VerificationError) as caught:
        trust._shipped("aws_nitro_root.pem")
    assert caught.value.code == "root-changed"


def test_a_quote_is_not_verified_at_a_time_without_a_zone(now):
    from privacy.tee.attest import attest
    from privacy.tee.checks import Checklist
    from privacy.tee.collateral import Collateral
    from privacy.tee.policy import Relaxations

    with pytest.raises(FormatError):
        attest(
            b"",
            trust_store=trust.simulated_trust_store(),
            collateral=Collateral(),
            now=now.replace(tzinfo=None),
            checks=Checklist(),
            policy=Relaxations(),
        )
