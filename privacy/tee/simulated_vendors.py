"""Simulated AMD, AWS and NVIDIA: evidence in the vendors' formats, under fresh roots.

Every object makes its own roots and the trust store that accepts them, so what it emits
proves nothing to anybody else. Fields can be overridden before they are signed, which
makes every semantic defect available properly signed.
"""

import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from privacy.tee import der
from privacy.tee.cbor import encode_head
from privacy.tee.nitro import PROTECTED
from privacy.tee.nvidia import REQUEST_HEAD, RESPONSE_HEAD
from privacy.tee.snp import REPORT_BYTES, SIGNED_BYTES, VCEK, VLEK
from privacy.tee.trust import AmdProduct, SimulatedTrustStore

_AMD = "1.3.6.1.4.1.3704.1"
_FOREVER = datetime(2049, 12, 31, tzinfo=UTC)
_FROM = datetime(2024, 1, 1, tzinfo=UTC)
_TCB = {"3.1": 10, "3.2": 0, "3.3": 23, "3.8": 84}
_TCB_BYTES = bytes([10, 0, 0, 0, 0, 0, 23, 84])

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
    valid: tuple[datetime, datetime] = (_FROM, _FOREVER),
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
        .serial_number(secrets.randbits(152) | 1)
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
        pss = padding.PSS(padding.MGF1(SHA384()), SHA384.digest_size)
        return Signer(builder.sign(signing_key, SHA384(), rsa_padding=pss), key)
    return Signer(builder.sign(signing_key, SHA384()), key)


class SimulatedAmd:
    """A processor of a simulated family, with its own root.

    Attributes:
        leaf: VCEK or VLEK; replace it to lie.
    """

    def __init__(self, *, vlek: bool = False) -> None:
        """Make root, signing keys and the leaf; RSA keys take seconds."""
        key = rsa.generate_private_key(65537, 4096)
        self.chip_id = secrets.token_bytes(64)
        self.signing_key = VLEK if vlek else VCEK
        self.ark = issue("ARK-Simulated", key=key, ca=True)
        self.ask = issue("SEV-Simulated", self.ark, key=key, ca=True)
        self.asvk = issue("SEV-VLEK-Simulated", self.ark, key=key, ca=True)
        self.leaf = self.make_leaf()

    @property
    def trust_store(self) -> SimulatedTrustStore:
        """The store that accepts this family and nothing else."""
        product = AmdProduct("Simulated", self.ask.der, self.ark.der, self.asvk.der)
        return SimulatedTrustStore(intel=b"", amd=(product,))

    def make_leaf(self, **extensions: bytes) -> Signer:
        """Return a VCEK or VLEK; extensions by what follows AMD's OID, `_` for `.`."""
        values = {oid: bytes([der.INTEGER, 1, svn]) for oid, svn in _TCB.items()}
        if self.signing_key == VCEK:
            values["4"] = self.chip_id
        values |= {name.replace("_", "."): v for name, v in extensions.items()}
        issuer = self.asvk if self.signing_key == VLEK else self.ask
        named = {f"{_AMD}.{oid}": value for oid, value in values.items() if value}
        return issue("SEV-VCEK", issuer, bare=True, extensions=named)

    def report(
        self, report_data: bytes, *, fields: Mapping[int, bytes] | None = None
    ) -> bytes:
        """Return a report, version 3; `fields` overrides bytes by offset."""
        raw = bytearray(REPORT_BYTES)
        struct.pack_into("<IIQ", raw, 0, 3, 1, 0x30000)
        written = {
            0x34: b"\x01",
            0x38: _TCB_BYTES,
            0x48: bytes([self.signing_key << 2]),
            0x50: report_data,
            0x90: bytes([7]) * 48,
            0x180: _TCB_BYTES,
            0x1A0: self.chip_id,
            **(fields or {}),
        }
        for offset, value in written.items():
            raw[offset : offset + len(value)] = value
        numbers = self.leaf.sign(bytes(raw[:SIGNED_BYTES]))
        for offset, number in zip((0x2A0, 0x2E8), numbers, strict=True):
            raw[offset : offset + 72] = number.to_bytes(72, "little")
        return bytes(raw)


class SimulatedAws:
    """A Nitro hypervisor with its own root; its leaf lives three hours."""

    def __init__(self, *, now: datetime) -> None:
        """Make root, intermediate and leaf."""
        self.now = now.replace(microsecond=0)
        self.root = issue("simulated.nitro-enclaves", ca=True)
        self.ca = issue("simulated.zone", self.root, ca=True)
        valid = self.now - timedelta(seconds=3), self.now + timedelta(hours=3)
        self.leaf = issue("i-simulated-enc0", self.ca, valid=valid)

    @property
    def trust_store(self) -> SimulatedTrustStore:
        """The store that accepts this hypervisor and nothing else."""
        return SimulatedTrustStore(intel=b"", aws=self.root.der)

    def document(
        self, *, members: Mapping[str, Any] | None = None, tagged: bool = False
    ) -> bytes:
        """Return a document; `members` overrides the payload's, None leaves one out."""
        value = {
            "module_id": "i-simulated-enc0",
            "digest": "SHA384",
            "timestamp": int(self.now.timestamp() * 1000),
            "pcrs": {i: bytes([i + 1]) * 48 for i in range(5)},
            "certificate": self.leaf.der,
            "cabundle": [self.root.der, self.ca.der],
            **(members or {}),
        }
        payload = _cbor({k: v for k, v in value.items() if v is not None})
        signed = _cbor(["Signature1", PROTECTED, b"", payload])
        signature = b"".join(n.to_bytes(48, "big") for n in self.leaf.sign(signed))
        message = _cbor([PROTECTED, {}, payload, signature])
        return b"\xd2" + message if tagged else message


def _cbor(value: Any) -> bytes:
    match value:
        case int():
            return encode_head(0, value)
        case bytes():
            return encode_head(2, len(value)) + value
        case str():
            return encode_head(3, len(value.encode())) + value.encode()
        case list():
            return encode_head(4, len(value)) + b"".join(map(_cbor, value))
        case _:
            pairs = (_cbor(k) + _cbor(v) for k, v in value.items())
            return encode_head(5, len(value)) + b"".join(pairs)


class SimulatedNvidia:
    """A GPU with its own root."""

    def __init__(self) -> None:
        """Make root, intermediates and leaf."""
        self.fwid = secrets.token_bytes(48)
        self.root = issue("SIMULATED Device Identity CA", ca=True)
        self.ca = issue("SIMULATED GH100 Identity", self.root, ca=True)
        extensions = {"2.23.133.5.4.1": bytes([der.OCTETS, 48]) + self.fwid}
        self.leaf = issue("GH100 SIMULATED", self.ca, extensions=extensions)

    @property
    def trust_store(self) -> SimulatedTrustStore:
        """The store that accepts this GPU and nothing else."""
        return SimulatedTrustStore(intel=b"", nvidia=self.root.der)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificates that come beside a report: leaf first, root last."""
        return self.leaf.der, self.ca.der, self.root.der

    def report(
        self,
        nonce: bytes,
        measurements: Sequence[bytes],
        *,
        opaque: Mapping[int, bytes] | None = None,
    ) -> bytes:
        """Return a report; `opaque` overrides what the device says of itself."""
        record = b"".join(
            struct.pack("<BBHBH", i, 1, 3 + len(m), 1, len(m)) + m
            for i, m in enumerate(measurements, start=1)
        )
        fields = {3: b"550.90.07\0", 20: self.fwid} | dict(opaque or {})
        data = b"".join(
            struct.pack("<HH", kind, len(v)) + v for kind, v in fields.items()
        )
        signed = REQUEST_HEAD + nonce + bytes(1) + RESPONSE_HEAD + bytes(2)
        signed += bytes([len(measurements)]) + len(record).to_bytes(3, "little")
        signed += record + secrets.token_bytes(32) + struct.pack("<H", len(data)) + data
        return signed + b"".join(n.to_bytes(48, "big") for n in self.leaf.sign(signed))
