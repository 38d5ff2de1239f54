"""The simulated vendor's certificates, in the shape of Intel's.

The root key follows from a public constant on purpose. Simulated evidence proves
nothing, whoever makes it; a root key that looked secret would only suggest otherwise.
Anyone can reproduce the shipped root certificate: its signature is deterministic and
its dates and serial number are fixed.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from privacy.encoding import sha256_hex
from privacy.tee.chain import SGX_EXTENSION

_ROOT_SEED = b"privacy-compute/simulated-intel/root-key/1: public, not a secret"
_CA_SEED = b"privacy-compute/simulated-intel/pck-ca-key/1: public, not a secret"
_CA_SERIAL = 0x53494D4341  # "SIMCA"
_ROOT_SERIAL = 0x53494D554C41544544  # "SIMULATED"
_VALID_FROM = datetime(2024, 1, 1, tzinfo=UTC)
_VALID_TO = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
FMSPC = bytes.fromhex("51ab0f000000")  # a family no platform of Intel's has
_ROOT = "SIMULATED SGX Root CA"
_CA = "SIMULATED SGX PCK Platform CA"
_LEAF = "SIMULATED SGX PCK Certificate"

_SEQUENCE, _OCTETS, _OID, _ENUM = 0x30, 0x04, 0x06, 0x0A


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)


def root_key() -> ec.EllipticCurvePrivateKey:
    """Return the simulated root's private key, which everyone knows."""
    return ec.derive_private_key(int(sha256_hex(_ROOT_SEED), 16), ec.SECP256R1())


def make_root() -> Issued:
    """Return the simulated root; the same bytes every time."""
    key = root_key()
    return issue(_ROOT, key, None, ca_depth=1, serial=_ROOT_SERIAL)


def make_ca(root: Issued) -> Issued:
    """Return a fresh PCK CA."""
    return issue(_CA, ec.generate_private_key(ec.SECP256R1()), root, ca_depth=0)


def known_ca() -> Issued:
    """Return the PCK CA of the platforms here; the same bytes every time.

    Its key is public like the root's, so that anyone can issue CRLs for it: whoever
    verifies simulated evidence makes the simulated vendor's collateral himself.
    """
    key = ec.derive_private_key(int(sha256_hex(_CA_SEED), 16), ec.SECP256R1())
    return issue(_CA, key, make_root(), ca_depth=0, serial=_CA_SERIAL)


def make_leaf(
    ca: Issued, *, valid: tuple[datetime, datetime] = (_VALID_FROM, _VALID_TO)
) -> Issued:
    """Return a fresh PCK certificate with Intel's SGX extension."""
    extension = x509.UnrecognizedExtension(SGX_EXTENSION, _sgx_extension())
    key = ec.generate_private_key(ec.SECP256R1())
    return issue(_LEAF, key, ca, ca_depth=None, extension=extension, valid=valid)


def issue(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Issued | None,
    *,
    ca_depth: int | None,
    serial: int | None = None,
    extension: x509.ExtensionType | None = None,
    valid: tuple[datetime, datetime] = (_VALID_FROM, _VALID_TO),
) -> Issued:
    """Return a certificate.

    Args:
        name: Common name of the subject.
        key: Its private key.
        issuer: Who signs; the certificate itself if None.
        ca_depth: How many CAs may follow below; None makes a leaf.
        serial: Random by default.
        extension: One more extension, not critical.
        valid: From when to when.
    """
    signer = issuer.key if issuer else key
    is_ca = ca_depth is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer.certificate.subject if issuer else _name(name))
        .public_key(key.public_key())
        .serial_number(serial or secrets.randbits(152) | 1)
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(is_ca, ca_depth), critical=True)
        .add_extension(_usage(is_ca=is_ca), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return Issued(builder.sign(signer, SHA256(), ecdsa_deterministic=True), key)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated, not Intel"),
        ]
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _sgx_extension() -> bytes:
    """Return the extension's DER: a sequence of (OID, value) pairs.

    Source: Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.5.
    """
    base = SGX_EXTENSION.dotted_string
    cpu_svn = bytes([3, 3, 2, 2, 4, 1, 0, 5] + [0] * 8)
    svns = [_pair(f"{base}.2.{i + 1}", _integer(n)) for i, n in enumerate(cpu_svn)]
    svns += [
        _pair(f"{base}.2.17", _integer(11)),
        _pair(f"{base}.2.18", _tlv(_OCTETS, cpu_svn)),
    ]
    pairs = [
        _pair(f"{base}.1", _tlv(_OCTETS, secrets.token_bytes(16))),  # PPID
        _pair(f"{base}.2", _tlv(_SEQUENCE, *svns)),
        _pair(f"{base}.3", _tlv(_OCTETS, bytes(2))),  # PCEID
        _pair(f"{base}.4", _tlv(_OCTETS, FMSPC)),
        _pair(f"{base}.5", _tlv(_ENUM, bytes([1]))),  # scalable
        _pair(f"{base}.6", _tlv(_OCTETS, secrets.token_bytes(16))),  # instance
    ]
    return _tlv(_SEQUENCE, *pairs)


def _pair(oid: str, value: bytes) -> bytes:
    return _tlv(_SEQUENCE, _oid(oid), value)


def _tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    short = len(body) < 0x80  # noqa: PLR2004 - DER's short form of a length
    size = len(body).to_bytes(1 if short else (len(body).bit_length() + 7) // 8, "big")
    return bytes([tag]) + (size if short else bytes([0x80 | len(size)]) + size) + body


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(n) for n in dotted.split("."))
    return _tlv(_OID, b"".join(map(_base128, [first * 40 + second, *rest])))


def _base128(value: int) -> bytes:
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(0x80 | (value & 0x7F))
    return bytes(reversed(digits))
