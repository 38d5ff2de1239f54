"""Certificates and CRLs of simulated AMD, AWS and NVIDIA, signed with SHA-384."""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

VALID = datetime(2024, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, tzinfo=UTC)
"""From when to when certificates are valid, unless said."""

_CRL_VALID = timedelta(days=30)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

_EXPONENT, _PRIME_BITS = 65537, 2048
_GAPS = {"p": 542, "q": 324}
"""How far each prime of the known RSA key is behind its number."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)

    def sign(self, message: bytes) -> tuple[int, int]:
        """Return an ECDSA signature with SHA-384."""
        if not isinstance(self.key, ec.EllipticCurvePrivateKey):
            raise TypeError("only leaves sign evidence, and their keys are elliptic")
        return decode_dss_signature(self.key.sign(message, ec.ECDSA(SHA384())))


def issue(
    name: str,
    issuer: Signer | None = None,
    *,
    key: PrivateKey | None = None,
    ca: bool = False,
    bare: bool = False,
    extensions: Mapping[str, bytes] | None = None,
    valid: tuple[datetime, datetime] = VALID,
) -> Signer:
    """Return a certificate, signed with SHA-384 and, under RSA, PSS.

    Args:
        name: Common name of the subject.
        issuer: Who signs; the certificate itself if None.
        key: A fresh P-384 key by default.
        ca: It may issue others.
        bare: Without basic constraints and key usage.
        extensions: More of them, not critical: DER by OID.
        valid: From when to when.
    """
    key = key or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(_serial(name, key))
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
    )
    if not bare:
        usage = dict.fromkeys(_USAGES, False)
        usage["key_cert_sign" if ca else "digital_signature"] = True
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    for oid, value in (extensions or {}).items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical=False)
    signing_key = issuer.key if issuer else key
    if isinstance(signing_key, rsa.RSAPrivateKey):
        return Signer(builder.sign(signing_key, SHA384(), rsa_padding=_pss()), key)
    signed = builder.sign(signing_key, SHA384(), ecdsa_deterministic=True)
    return Signer(signed, key)


def known_key(name: str) -> ec.EllipticCurvePrivateKey:
    """Return the private key of a shipped simulated root, which everyone knows."""
    seed = f"privacy-compute/simulated/{name}/1: public, not a secret"
    number = int.from_bytes(hashlib.sha384(seed.encode()).digest(), "big")
    return ec.derive_private_key(number, ec.SECP384R1())


@functools.cache
def known_rsa_key() -> rsa.RSAPrivateKey:
    """Return the RSA 4096 key of the simulated AMD's shipped CAs, which everyone knows.

    Its primes are the first two after numbers that follow from a public text.
    """
    p, q = (_number(which) + gap for which, gap in _GAPS.items())
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=rsa.rsa_crt_dmp1(d, p),
        dmq1=rsa.rsa_crt_dmq1(d, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(_EXPONENT, p * q),
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)  # a constant


def _number(which: str) -> int:
    seed = f"privacy-compute/simulated/amd/{which}/1: public, not a secret"
    digest = hashlib.shake_256(seed.encode()).digest(_PRIME_BITS // 8)
    return int.from_bytes(digest, "big") | 3 << (_PRIME_BITS - 2) | 1


def _serial(name: str, key: PrivateKey) -> int:
    """Return a serial number; the same certificate always has the same."""
    form = PublicFormat.SubjectPublicKeyInfo
    raw = key.public_key().public_bytes(Encoding.DER, form)
    digest = hashlib.sha256(name.encode() + raw).digest()
    return int.from_bytes(digest[:19], "big") | 1


def issue_crl(
    issuer: Signer,
    now: datetime,
    *,
    revoked: Iterable[int] = (),
    key: PrivateKey | None = None,
) -> bytes:
    """Return a CRL for 30 days, DER, that lists these serial numbers.

    Args:
        issuer: Whose list it is.
        now: When it is issued.
        revoked: Serial numbers.
        key: That signs it; the issuer's own by default.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now.replace(microsecond=0))
        .next_update(now.replace(microsecond=0) + _CRL_VALID)
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder(serial, now)
        builder = builder.add_revoked_certificate(entry.build())
    signing_key = key or issuer.key
    if isinstance(signing_key, rsa.RSAPrivateKey):
        crl = builder.sign(signing_key, SHA384(), rsa_padding=_pss())
    else:
        crl = builder.sign(signing_key, SHA384())
    return crl.public_bytes(Encoding.DER)


def _pss() -> padding.PSS:
    return padding.PSS(padding.MGF1(SHA384()), 0)  # no salt: the same bytes every time
