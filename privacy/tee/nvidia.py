"""NVIDIA attestation reports of GPUs (Hopper, Blackwell) and switches (LS10). Pure.

A report is the SPDM 1.1 exchange GET_MEASUREMENTS: request, response, signature. Its
certificates come beside it.

    1. The certificates chain to NVIDIA's pinned device root, at the given time.
    2. The leaf signed request and response.
    3. Where the report names the firmware's identity (FWID), the leaf's is the same.

Measurements are claims here; `privacy.tee.gpu` compares them with NVIDIA's.

Source: DMTF DSP0274 1.1, sections 10.11; names of opaque fields as in NVIDIA's
published verifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import NameOID

from privacy.encoding import Json
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.tee.chain import (
    Rules,
    extension_value,
    load_certificate,
    names,
    public_key,
    verify_chain,
)
from privacy.tee.checks import Checklist
from privacy.tee.claims import Claims
from privacy.tee.reader import Reader
from privacy.tee.signature import check_raw_signature
from privacy.tee.trust import TrustStore, check_root

MAX_BYTES = 1 << 16
SIGNATURE_BYTES = 96
REQUEST_HEAD, RESPONSE_HEAD = bytes.fromhex("11e001ff"), bytes.fromhex("1160")
_DMTF = 1
_MAX_DIGEST_BYTES = 64
_RULES = Rules(
    names=("NVIDIA device root", "NVIDIA certificate", "certificate of the device"),
    curve=ec.SECP384R1,
    digest=SHA384,
    bare_leaf=True,
)
_MIN_CHAIN, _MAX_CHAIN = 2, 8
_FWID_EXTENSION = x509.ObjectIdentifier("2.23.133.5.4.1")
_FWID, _CHIP, _DRIVER, _VBIOS, _NVDEC0 = 20, 35, 3, 6, 11
_DISABLED = b"\x55"
_OPAQUE = {
    _DRIVER: "driver_version",
    4: "gpu_info",
    5: "sku",
    _VBIOS: "vbios_version",
    7: "manufacturer_id",
    8: "tamper_detection",
    _NVDEC0: "nvdec0_status",
    12: "measurement_counts",
    13: "cpr_info",
    14: "board_id",
    15: "chip_sku",
    16: "chip_sku_mod",
    17: "project",
    18: "project_sku",
    19: "project_sku_mod",
    _FWID: "fwid",
    21: "protected_pcie",
    22: "switch_pdi",
    34: "opaque_data_version",
    _CHIP: "chip",
    36: "feature_flag",
}
_TEXTS = {_DRIVER, 15, 16, 17, 18, 19, _CHIP}


@dataclass(frozen=True, slots=True)
class NvidiaReport:
    """A report, taken apart; nothing in it is verified.

    Attributes:
        signed_bytes: Request and response.
        signature: ECDSA P-384, r and s, 96 bytes.
        nonce: That the verifier asked with, 32 bytes.
        device_nonce: Of the device, 32 bytes.
        measurements: By index, from 1.
        opaque: Fields that say what the device is, by number.
    """

    signed_bytes: bytes
    signature: bytes
    nonce: bytes
    device_nonce: bytes
    measurements: dict[int, bytes]
    opaque: dict[int, bytes]

    @property
    def is_switch(self) -> bool:
        """Whether it is of a switch, which runs no driver."""
        return _DRIVER not in self.opaque

    @property
    def chip(self) -> str:
        """As Blackwell reports name it, `GB100`; empty in those of Hopper."""
        return _text(self.opaque.get(_CHIP, b""))

    @property
    def nvdec0_disabled(self) -> bool:
        """Whether the video decoder is off."""
        return self.opaque.get(_NVDEC0) == _DISABLED

    @property
    def versions(self) -> dict[str, str]:
        """Of `driver` (not in switches) and `vbios`, as NVIDIA writes them."""
        found = {} if self.is_switch else {"driver": _text(self.opaque[_DRIVER])}
        raw = self.opaque.get(_VBIOS, b"")
        if self.is_switch:
            return {"vbios": _text(raw)}
        digits = bytes(reversed(raw)).hex()
        half = len(digits) // 2
        digits = digits[half:] + digits[max(half - 2, 0) : half]
        parts = (digits[i : i + 2] for i in range(0, len(digits), 2))
        return {**found, "vbios": ".".join(parts).upper()}

    @property
    def board(self) -> tuple[str, str, str]:
        """Project, its SKU and the chip's SKU, by which NVIDIA names a VBIOS."""
        project, sku, chip = (_text(self.opaque.get(i, b"")) for i in (17, 18, 15))
        return project, sku, chip

    def as_dict(self) -> Json:
        """Return every field, JSON-ready, bytes in hex, texts as texts."""
        return {
            "nonce": self.nonce.hex(),
            "device_nonce": self.device_nonce.hex(),
            "measurements": {str(i): m.hex() for i, m in self.measurements.items()},
            "opaque": {
                _OPAQUE.get(i, f"field_{i}"): _text(v) if i in _TEXTS else v.hex()
                for i, v in self.opaque.items()
            },
            "signature": self.signature.hex(),
        }


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("ascii", errors="backslashreplace")


def parse_nvidia_report(raw: bytes) -> NvidiaReport:
    """Return a report taken apart; one zero byte or newline may follow it.

    Raises:
        FormatError: Not such a report.
    """
    reader = Reader(raw, what="NVIDIA report", limit=MAX_BYTES)
    request = reader.take(4, "request")
    nonce = reader.take(32, "nonce")
    reader.take(1, "slot")
    response = reader.take(2, "response")
    reader.take(2, "parameters")
    if (request, response) != (REQUEST_HEAD, RESPONSE_HEAD):
        msg = (
            f"the report begins with {request.hex()} and {response.hex()}, expected "
            "SPDM 1.1 GET_MEASUREMENTS of all, signed"
        )
        raise FormatError(msg, code="unsupported-report")
    count = reader.uint(1, "number of measurements")
    size = reader.uint(3, "length of measurements")
    measurements = _measurements(reader.take(size, "measurements"), count)
    device_nonce = reader.take(32, "device nonce")
    opaque = _opaque(reader.take(reader.uint(2, "opaque length"), "opaque data"))
    signed_bytes = raw[: reader.at]
    signature = reader.take(SIGNATURE_BYTES, "signature")
    if reader.rest() not in {b"", b"\0", b"\n"}:
        raise FormatError("bytes follow the NVIDIA report", code="not-canonical")
    return NvidiaReport(
        signed_bytes, signature, nonce, device_nonce, measurements, opaque
    )


def _measurements(raw: bytes, count: int) -> dict[int, bytes]:
    reader = Reader(raw, what="measurement record")
    found: dict[int, bytes] = {}
    for _ in range(count):
        index, kind = reader.uint(1, "index"), reader.uint(1, "specification")
        size = reader.uint(2, "size")
        block = Reader(reader.take(size, "block"), what="measurement")
        block.take(1, "type")
        value = block.take(block.uint(2, "value size"), "value")
        bad = kind != _DMTF or block.left or len(value) > _MAX_DIGEST_BYTES
        if bad or index != len(found) + 1:
            msg = f"measurement {index} is not a DMTF one in its place"
            raise FormatError(msg, code="unsupported-report")
        found[index] = value
    if reader.left:
        raise FormatError("bytes follow the measurements", code="not-canonical")
    return found


def _opaque(raw: bytes) -> dict[int, bytes]:
    reader = Reader(raw, what="opaque data")
    found: dict[int, bytes] = {}
    while reader.left:
        kind, size = reader.uint(2, "type"), reader.uint(2, "size")
        value = reader.take(size, "value")
        if kind in found:
            raise FormatError(f"opaque field {kind} comes twice")
        found[kind] = value
    return found


def verify_nvidia_report(
    report: NvidiaReport,
    trust_store: TrustStore,
    *,
    certificates: Sequence[bytes],
    now: datetime,
    checks: Checklist,
) -> Claims:
    """Return what a genuine report says.

    Args:
        report: From `parse_nvidia_report`.
        trust_store: Whom to trust.
        certificates: DER, leaf first, root last.
        now: When certificates must be valid.
        checks: Gets a line for every step.

    Raises:
        VerificationError: The report is not genuine.
        CannotVerifyError: The certificates were not given.
    """
    certificates = _under(trust_store.nvidia, certificates)
    with checks.step("certificate", "the device's certificate chain beside the report"):
        if not _MIN_CHAIN <= len(certificates) <= _MAX_CHAIN:
            msg = (
                f"{len(certificates)} certificates came with the NVIDIA report, "
                "expected its chain, leaf first: the GPU's driver gives it"
            )
            raise CannotVerifyError(msg, code="certificate-missing")
    with checks.step("root", f"a pinned {trust_store.kind} root"):
        check_root(certificates[-1], trust_store.nvidia)
    with checks.step("certificate-chain", f"NVIDIA root to leaf at {now.isoformat()}"):
        chain = verify_chain(
            certificates, roots=[trust_store.nvidia], rules=_RULES, now=now
        )
    with checks.step("report-signature", "signed by the leaf"):
        check_raw_signature(
            public_key(chain[0]),
            report.signature,
            report.signed_bytes,
            code="report-signature",
            what="the report was not signed by the leaf: it or the chain was changed",
        )
    if _FWID in report.opaque:
        with checks.step("firmware-id", "the leaf was issued to the report's firmware"):
            _check_fwid(report.opaque[_FWID], chain[0])
    return Claims(
        format="nvidia-spdm-1.1",
        vendor="nvidia",
        simulated=trust_store.simulated,
        debug=None,
        measurements={f"m{i}": m.hex() for i, m in report.measurements.items()},
        nonce=report.nonce.hex(),
        product=_product(chain[0]),
        is_gpu=not report.is_switch,
        hardware_id=_serial(chain[0]),
        chain=chain,
        unchecked=("revocation",),
    )


def _under(root: bytes, certificates: Sequence[bytes]) -> Sequence[bytes]:
    """Return the certificates in their order, without those of others in the folder."""
    whole = list(certificates[-1:]) == [root] and len(certificates) <= _MAX_CHAIN
    if whole or not root:  # a store without NVIDIA's trusts none of them
        return certificates
    known = {load_certificate(root, _RULES.names[0]).subject}
    named = [names(load_certificate(raw, "certificate")) for raw in certificates]
    for _ in range(_MAX_CHAIN):
        known |= {one[0] for one in named if one and one[1] in known}
    pairs = zip(certificates, named, strict=True)
    under = [raw for raw, one in pairs if one and one[1] in known]
    return under or certificates  # another root: say which


def _check_fwid(fwid: bytes, leaf: x509.Certificate) -> None:
    issued_to = extension_value(leaf, _FWID_EXTENSION) or b""
    if fwid and issued_to.endswith(fwid):
        return
    msg = f"the leaf is not of firmware {fwid.hex()[:16]}, which the report names"
    raise VerificationError(msg, code="firmware-mismatch")


def _product(leaf: x509.Certificate) -> str:
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value).split(" ")[0] if names else ""


def _serial(leaf: x509.Certificate) -> str:
    numbers = leaf.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    return str(numbers[0].value) if numbers else ""
