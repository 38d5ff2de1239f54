"""Bytes to structure, and back: Intel's DCAP quotes of SGX and TDX, ECDSA P-256.

Versions 3 (SGX), 4 (SGX, TDX 1.0) and 5 (SGX, TDX 1.0, TDX 1.5).

Nothing is believed here; see `privacy.tee.verify`. Each quote has one encoding: what
was parsed is encoded again and must equal what came in. Real quotes come with zeros
behind them, which are allowed and dropped; anything else behind them is refused.

ECDSA itself lets anyone turn a signature (r, s) into (r, -s), so a quote's digest is no
identity: never use it against replay.

Source: Intel SGX ECDSA Quote Library API, appendix A; Intel TDX DCAP Quoting Library
API, appendix 3 (quote formats 4 and 5).
"""

import base64
import binascii
import re
import struct
from dataclasses import astuple, dataclass
from typing import Self

from privacy.errors import FormatError
from privacy.tee.reader import Reader

REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
REGISTER_BYTES = 48
QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QUOTE_VERSION, KEY_TYPE_P256, TEE_TYPE_SGX, TEE_TYPE_TDX = 4, 2, 0, 0x81
MAX_QUOTE_BYTES = 1 << 16

_HEADER = struct.Struct("<HHIHH16s20s")
_TD_REPORT = struct.Struct("<16s48s48s8s8s8s" + "48s" * 8 + "64s")
_TD_REPORT_15_END = struct.Struct("<16s48s")
_SGX_REPORT_BYTES = 384
_BODY = struct.Struct("<HI")  # kind and size, in version 5 only
_SGX_ONLY_VERSION, _BODY_HEADER_VERSION = 3, 5
_TDX_V4 = struct.pack("<HHI", QUOTE_VERSION, KEY_TYPE_P256, TEE_TYPE_TDX)
_SIGNATURE_AND_KEY = struct.Struct("<64s64s")
_QE_REPORT_AND_SIGNATURE = struct.Struct("<384s64s")
_CERTIFICATION = struct.Struct("<HI")
_QE_CERTIFICATION, _PCK_CHAIN = 6, 5
_CHAIN_LENGTH = 3
_MIGRATABLE = 1 << 5  # of the attributes' fourth byte: bit 29
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
    def is_open_to_host(self) -> bool:
        """Whether the host can look in.

        By debugging (the whole first byte, group TUD; debug is bit 0), or by migrating
        the guest with a service TD of its choice, which only version 1.5 names.
        """
        migratable = self.td_attributes[3] & _MIGRATABLE
        return self.td_attributes[0] != 0 or migratable != 0

    @property
    def measurements(self) -> Measurements:
        """The five registers."""
        return Measurements(*(getattr(self, name) for name in REGISTERS))

    def to_bytes(self) -> bytes:
        """Return the 584 bytes."""
        return _TD_REPORT.pack(*astuple(self))


@dataclass(frozen=True, slots=True)
class TdReport15(TdReport):
    """A TD report, version 1.5, 648 bytes."""

    tee_tcb_svn2: bytes
    mr_servicetd: bytes

    @property
    def is_open_to_host(self) -> bool:
        """Whether the host can debug; who may migrate says `mr_servicetd`."""
        return self.td_attributes[0] != 0

    def to_bytes(self) -> bytes:
        """Return the 648 bytes."""
        *first, svn2, service = astuple(self)
        return _TD_REPORT.pack(*first) + _TD_REPORT_15_END.pack(svn2, service)


@dataclass(frozen=True, slots=True)
class SgxReport:
    """The report of an SGX enclave, as of the quoting enclave (QE), 384 bytes."""

    raw: bytes

    def to_bytes(self) -> bytes:
        """Return the 384 bytes."""
        return self.raw

    @property
    def cpu_svn(self) -> bytes:
        """CPUSVN, 16 bytes."""
        return self.raw[:16]

    @property
    def misc_select(self) -> bytes:
        """MISCSELECT, 4 bytes."""
        return self.raw[16:20]

    @property
    def attributes(self) -> bytes:
        """Flags and XFRM, 16 bytes; bit 1 is debug."""
        return self.raw[48:64]

    @property
    def mrenclave(self) -> bytes:
        """Measurement of the enclave, 32 bytes."""
        return self.raw[64:96]

    @property
    def mrsigner(self) -> bytes:
        """Digest of the key that signed the enclave, 32 bytes."""
        return self.raw[128:160]

    @property
    def product_id(self) -> int:
        """ISVPRODID."""
        return int.from_bytes(self.raw[256:258], "little")

    @property
    def isv_svn(self) -> int:
        """ISVSVN."""
        return int.from_bytes(self.raw[258:260], "little")

    @property
    def report_data(self) -> bytes:
        """What the enclave vouches for, 64 bytes."""
        return self.raw[320:384]


Report = TdReport | SgxReport
_BODIES: dict[int, tuple[type[Report], int, int]] = {
    1: (SgxReport, _SGX_REPORT_BYTES, TEE_TYPE_SGX),
    2: (TdReport, _TD_REPORT.size, TEE_TYPE_TDX),
    3: (TdReport15, _TD_REPORT.size + _TD_REPORT_15_END.size, TEE_TYPE_TDX),
}
"""By the body type that version 5 names: class, bytes, TEE type."""


@dataclass(frozen=True, slots=True)
class Quote:
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
    report: Report
    signature: bytes
    attestation_key: bytes
    qe_report: SgxReport
    qe_signature: bytes
    qe_auth: bytes
    certificates: tuple[bytes, ...]
    pem_end: bytes = b"\n"

    @property
    def format(self) -> str:
        """`sgx-v3`, `tdx-v4` and so on."""
        tee = "sgx" if isinstance(self.report, SgxReport) else "tdx"
        return f"{tee}-v{self.header.version}"

    @property
    def signed_bytes(self) -> bytes:
        """What `signature` covers."""
        report = self.report.to_bytes()
        body = b""
        if self.header.version == _BODY_HEADER_VERSION:
            kind = next(k for k, v in _BODIES.items() if v[0] is type(self.report))
            body = _BODY.pack(kind, len(report))
        return self.header.to_bytes() + body + report

    def to_bytes(self) -> bytes:
        """Return the quote's one encoding."""
        chain = b"".join(map(_to_pem, self.certificates))[:-1] + self.pem_end
        qe = self.qe_report.raw + self.qe_signature
        qe += struct.pack("<H", len(self.qe_auth)) + self.qe_auth
        qe += _CERTIFICATION.pack(_PCK_CHAIN, len(chain)) + chain
        data = self.signature + self.attestation_key
        if self.header.version > _SGX_ONLY_VERSION:
            qe = _CERTIFICATION.pack(_QE_CERTIFICATION, len(qe)) + qe
        data += qe
        return self.signed_bytes + struct.pack("<I", len(data)) + data


@dataclass(frozen=True, slots=True)
class TdxQuote(Quote):
    """A quote of a trust domain."""

    report: TdReport


def parse_quote(raw: bytes) -> Quote:
    """Return a DCAP quote of SGX or TDX, version 3, 4 or 5, taken apart.

    Args:
        raw: The quote; only zeros may follow it.

    Raises:
        FormatError: Not such a quote, or not in its one canonical encoding.
    """
    reader = Reader(raw, what="quote", limit=MAX_QUOTE_BYTES)
    header = QuoteHeader(*reader.fields(_HEADER, "header"))
    _check_header(header)
    report = _parse_report(header, reader)
    (size,) = struct.unpack("<I", reader.take(4, "signature length"))
    data = Reader(reader.take(size, "signature data"), what="quote")
    quote = _parse_signature_data(header, report, data)
    if quote.to_bytes() + bytes(len(reader.rest())) != raw:
        msg = "the quote is not canonical: it was re-encoded, or bytes follow its end"
        raise FormatError(msg, code="not-canonical")
    return quote


def parse_tdx_quote(raw: bytes) -> TdxQuote:
    """Return a quote of a trust domain, version 4, taken apart.

    Raises:
        FormatError: Another format, or as `parse_quote`.
    """
    found = raw[: len(_TDX_V4)]
    if not _TDX_V4.startswith(found):
        msg = f"the quote begins with {found.hex()}, expected a TDX quote, version 4"
        raise FormatError(msg, code="unsupported-quote")
    quote = parse_quote(raw)
    assert isinstance(quote, TdxQuote)  # since it begins so
    return quote


def _check_header(header: QuoteHeader) -> None:
    found = (header.version, header.key_type, header.tee_type)
    known = {
        (version, KEY_TYPE_P256, tee)
        for version in (_SGX_ONLY_VERSION, QUOTE_VERSION, _BODY_HEADER_VERSION)
        for tee in (TEE_TYPE_SGX, TEE_TYPE_TDX)
    } - {(_SGX_ONLY_VERSION, KEY_TYPE_P256, TEE_TYPE_TDX)}
    if found not in known or header.qe_vendor != QE_VENDOR_ID:
        msg = (
            f"the quote's version, key type and TEE type are {found}, expected a "
            "DCAP quote 3 (SGX), 4 or 5 (SGX, TDX) with ECDSA P-256 from Intel's "
            "quoting enclave"
        )
        raise FormatError(msg, code="unsupported-quote")


def _parse_report(header: QuoteHeader, reader: Reader) -> Report:
    kind, size = (1 if header.tee_type == TEE_TYPE_SGX else 2), None
    if header.version == _BODY_HEADER_VERSION:
        kind, size = reader.fields(_BODY, "body header")
    body, expected, tee_type = _BODIES.get(kind, (SgxReport, -1, -1))
    if tee_type != header.tee_type or size not in {None, expected}:
        msg = f"the quote's body is of type {kind} with {size} bytes: not a known one"
        raise FormatError(msg, code="unsupported-quote")
    raw = reader.take(expected, "report")
    if body is SgxReport:
        return SgxReport(raw)
    fields = _TD_REPORT.unpack(raw[: _TD_REPORT.size])
    if body is TdReport15:
        return TdReport15(*fields, *_TD_REPORT_15_END.unpack(raw[_TD_REPORT.size :]))
    return TdReport(*fields)


def _parse_signature_data(header: QuoteHeader, report: Report, reader: Reader) -> Quote:
    signature, attestation_key = reader.fields(_SIGNATURE_AND_KEY, "signature")
    qe = reader
    if header.version > _SGX_ONLY_VERSION:
        qe = Reader(_certification(reader, _QE_CERTIFICATION), what="quote")
    qe_report, qe_signature = qe.fields(_QE_REPORT_AND_SIGNATURE, "QE report")
    (auth_size,) = struct.unpack("<H", qe.take(2, "QE authentication length"))
    qe_auth = qe.take(auth_size, "QE authentication data")
    certificates, pem_end = _parse_chain(_certification(qe, _PCK_CHAIN))
    parts = {
        "header": header,
        "signature": signature,
        "attestation_key": attestation_key,
        "qe_report": SgxReport(qe_report),
        "qe_signature": qe_signature,
        "qe_auth": qe_auth,
        "certificates": certificates,
        "pem_end": pem_end,
    }
    if isinstance(report, TdReport):
        return TdxQuote(report=report, **parts)
    return Quote(report=report, **parts)


def _certification(reader: Reader, expected: int) -> bytes:
    kind, size = reader.fields(_CERTIFICATION, "certification data")
    if kind != expected:
        msg = f"certification data is of type {kind}, expected type {expected}"
        raise FormatError(msg, code="unsupported-quote")
    return reader.take(size, "certification data")


def _parse_chain(pem: bytes) -> tuple[tuple[bytes, ...], bytes]:
    blocks = _PEM.findall(pem)
    try:
        certificates = tuple(
            base64.b64decode(b.replace(b"\n", b""), validate=True) for b in blocks
        )
    except (binascii.Error, ValueError) as exc:
        msg = "a certificate in the quote is not base64"
        raise FormatError(msg, code="not-canonical") from exc
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
