"""Bytes to structure, and back: Intel TDX quotes, version 4, ECDSA P-256.

Nothing is believed here; see `privacy.tee.verify`. Each quote has one encoding: what
was parsed is encoded again and must equal what came in. Real quotes come with zeros
behind them, which are allowed and dropped; anything else behind them is refused.

ECDSA itself lets anyone turn a signature (r, s) into (r, -s), so a quote's digest is no
identity: never use it against replay.

Source: Intel TDX DCAP Quoting Library API, appendix 3 (quote format 4).
"""

import base64
import binascii
import re
import struct
from dataclasses import astuple, dataclass
from typing import Self

from privacy.errors import FormatError

REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
REGISTER_BYTES = 48
QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QUOTE_VERSION, KEY_TYPE_P256, TEE_TYPE_TDX = 4, 2, 0x81
MAX_QUOTE_BYTES = 1 << 16

_HEADER = struct.Struct("<HHIHH16s20s")
_TD_REPORT = struct.Struct("<16s48s48s8s8s8s" + "48s" * 8 + "64s")
_SIGNATURE_AND_KEY = struct.Struct("<64s64s")
_QE_REPORT_AND_SIGNATURE = struct.Struct("<384s64s")
_CERTIFICATION = struct.Struct("<HI")
_QE_CERTIFICATION, _PCK_CHAIN = 6, 5
_CHAIN_LENGTH = 3
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\n([^-]*)\n-----END CERTIFICATE-----", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Measurements:
    """The five registers that say what runs in a trust domain, 48 bytes each."""

    mrtd: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes

    def as_dict(self) -> dict[str, str]:
        """Return the registers by name, in hex."""
        return {name: getattr(self, name).hex() for name in REGISTERS}

    @classmethod
    def from_dict(cls, value: object) -> Self:
        """Return the registers that `as_dict` described.

        Raises:
            FormatError: A register is missing, unknown or not 48 bytes of hex.
        """
        if not isinstance(value, dict) or set(value) != set(REGISTERS):
            raise FormatError(f"measurements are exactly {', '.join(REGISTERS)}")
        for name, text in value.items():
            if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{96}", text):
                raise FormatError(f"measurement {name} is not 96 lowercase hex digits")
        return cls(**{name: bytes.fromhex(text) for name, text in value.items()})


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """The first 48 bytes of a quote."""

    version: int
    key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor: bytes
    user_data: bytes

    def to_bytes(self) -> bytes:
        """Return the 48 bytes."""
        return _HEADER.pack(*astuple(self))


@dataclass(frozen=True, slots=True)
class TdReport:
    """A TD report, version 1.0, 584 bytes: what the TDX module says of the guest."""

    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes

    @property
    def measurements(self) -> Measurements:
        """The five registers."""
        return Measurements(*(getattr(self, name) for name in REGISTERS))

    def to_bytes(self) -> bytes:
        """Return the 584 bytes."""
        return _TD_REPORT.pack(*astuple(self))


@dataclass(frozen=True, slots=True)
class QeReport:
    """The SGX report of the quoting enclave (QE), 384 bytes."""

    raw: bytes

    @property
    def attributes(self) -> bytes:
        """Flags and XFRM, 16 bytes; bit 1 is debug."""
        return self.raw[48:64]

    @property
    def mrsigner(self) -> bytes:
        """Digest of the key that signed the quoting enclave, 32 bytes."""
        return self.raw[128:160]

    @property
    def product_id(self) -> int:
        """ISVPRODID."""
        return int.from_bytes(self.raw[256:258], "little")

    @property
    def report_data(self) -> bytes:
        """What the quoting enclave vouches for, 64 bytes."""
        return self.raw[320:384]


@dataclass(frozen=True, slots=True)
class TdxQuote:
    """A quote, taken apart; nothing in it is verified.

    Attributes:
        signature: By `attestation_key` over header and report, r and s, 64 bytes.
        attestation_key: P-256 point, x and y, 64 bytes.
        qe_signature: By the PCK leaf over `qe_report`, 64 bytes.
        qe_auth: The quoting enclave's authentication data.
        certificates: DER of PCK leaf, PCK CA and root.
        pem_end: What follows the chain's last dash: a newline, a zero byte, or both.
    """

    header: QuoteHeader
    report: TdReport
    signature: bytes
    attestation_key: bytes
    qe_report: QeReport
    qe_signature: bytes
    qe_auth: bytes
    certificates: tuple[bytes, ...]
    pem_end: bytes = b"\n"

    @property
    def signed_bytes(self) -> bytes:
        """What `signature` covers."""
        return self.header.to_bytes() + self.report.to_bytes()

    def to_bytes(self) -> bytes:
        """Return the quote's one encoding."""
        chain = b"".join(map(_to_pem, self.certificates))[:-1] + self.pem_end
        qe = self.qe_report.raw + self.qe_signature
        qe += struct.pack("<H", len(self.qe_auth)) + self.qe_auth
        qe += _CERTIFICATION.pack(_PCK_CHAIN, len(chain)) + chain
        data = self.signature + self.attestation_key
        data += _CERTIFICATION.pack(_QE_CERTIFICATION, len(qe)) + qe
        return self.signed_bytes + struct.pack("<I", len(data)) + data


class _Reader:
    """Takes fields off the front of a quote and refuses to run past its end."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def take(self, size: int, what: str) -> bytes:
        part = self._raw[self._at : self._at + size]
        if len(part) != size:
            msg = f"the quote ends in its {what}: {len(part)} of {size} bytes are there"
            raise FormatError(msg, code="truncated")
        self._at += size
        return part

    def fields(self, layout: struct.Struct, what: str) -> tuple[int | bytes, ...]:
        return layout.unpack(self.take(layout.size, what))

    def rest(self) -> bytes:
        return self.take(len(self._raw) - self._at, "end")


def parse_tdx_quote(raw: bytes) -> TdxQuote:
    """Return a TDX quote, version 4, taken apart.

    Args:
        raw: The quote; only zeros may follow it.

    Raises:
        FormatError: Not such a quote, or not in its one canonical encoding.
    """
    if len(raw) > MAX_QUOTE_BYTES:
        msg = f"the quote has {len(raw)} bytes, at most {MAX_QUOTE_BYTES} are allowed"
        raise FormatError(msg, code="too-large")
    reader = _Reader(raw)
    header = QuoteHeader(*reader.fields(_HEADER, "header"))  # type: ignore[arg-type]
    _check_header(header)
    report = TdReport(*reader.fields(_TD_REPORT, "TD report"))  # type: ignore[arg-type]
    (size,) = struct.unpack("<I", reader.take(4, "signature length"))
    quote = _parse_signature_data(
        header, report, _Reader(reader.take(size, "signature data"))
    )
    if quote.to_bytes() + bytes(len(reader.rest())) != raw:
        msg = "the quote is not canonical: it was re-encoded, or bytes follow its end"
        raise FormatError(msg, code="not-canonical")
    return quote


def _check_header(header: QuoteHeader) -> None:
    found = (header.version, header.key_type, header.tee_type)
    expected = (QUOTE_VERSION, KEY_TYPE_P256, TEE_TYPE_TDX)
    if found != expected or header.qe_vendor != QE_VENDOR_ID:
        msg = (
            f"the quote's version, key type and TEE type are {found}, expected "
            f"{expected} (TDX quote 4, ECDSA P-256) from Intel's quoting enclave"
        )
        raise FormatError(msg, code="unsupported-quote")


def _parse_signature_data(
    header: QuoteHeader, report: TdReport, reader: _Reader
) -> TdxQuote:
    signature, attestation_key = reader.fields(_SIGNATURE_AND_KEY, "signature")
    qe = _Reader(_certification(reader, _QE_CERTIFICATION))
    qe_report, qe_signature = qe.fields(_QE_REPORT_AND_SIGNATURE, "QE report")
    (auth_size,) = struct.unpack("<H", qe.take(2, "QE authentication length"))
    qe_auth = qe.take(auth_size, "QE authentication data")
    certificates, pem_end = _parse_chain(_certification(qe, _PCK_CHAIN))
    return TdxQuote(
        header=header,
        report=report,
        signature=bytes(signature),
        attestation_key=bytes(attestation_key),
        qe_report=QeReport(bytes(qe_report)),
        qe_signature=bytes(qe_signature),
        qe_auth=qe_auth,
        certificates=certificates,
        pem_end=pem_end,
    )


def _certification(reader: _Reader, expected: int) -> bytes:
    kind, size = reader.fields(_CERTIFICATION, "certification data")
    if kind != expected:
        msg = f"certification data is of type {kind!r}, expected type {expected}"
        raise FormatError(msg, code="unsupported-quote")
    return reader.take(int(size), "certification data")


def _parse_chain(pem: bytes) -> tuple[tuple[bytes, ...], bytes]:
    blocks = _PEM.findall(pem)
    try:
        certificates = tuple(
            base64.b64decode(b.replace(b"\n", b""), validate=True) for b in blocks
        )
    except (binascii.Error, ValueError) as exc:
        raise FormatError("a certificate in the quote is not base64") from exc
    body = b"".join(map(_to_pem, certificates))[:-1]
    if len(certificates) != _CHAIN_LENGTH or not pem.startswith(body):
        msg = (
            f"the quote holds {len(certificates)} canonical PEM certificates, expected "
            f"{_CHAIN_LENGTH}: PCK leaf, PCK CA and root"
        )
        raise FormatError(msg, code="not-canonical")
    pem_end = pem[len(body) :]
    if pem_end not in {b"", b"\n", b"\0", b"\n\0"}:
        msg = "bytes follow the quote's certificate chain"
        raise FormatError(msg, code="not-canonical")
    return certificates, pem_end


def _to_pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    marks = (b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----")
    return b"\n".join([marks[0], *lines, marks[1], b""])
