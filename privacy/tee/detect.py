"""Which attestation format bytes are, and out of which wrapping they came. Pure.

Evidence comes as raw bytes, as hex, as base64, as NVIDIA's JSON list of devices with
their certificates, or in this project's own files: evidence of an enclave, or a
composite of a CPU with its devices. Behind an SEV-SNP report may follow the host's
table of certificates.
"""

import base64
import binascii
import re
from dataclasses import dataclass, replace
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from privacy.encoding import parse_canonical, parse_json
from privacy.errors import FormatError
from privacy.tee.composite import FORMAT as COMPOSITE
from privacy.tee.composite import Composite, parse_composite, parse_devices
from privacy.tee.evidence import Evidence, parse_evidence
from privacy.tee.nvidia import REQUEST_HEAD
from privacy.tee.parse import KEY_TYPE_P256, TEE_TYPE_SGX, TEE_TYPE_TDX
from privacy.tee.snp import REPORT_BYTES
from privacy.tee.snp import VERSIONS as SNP_VERSIONS
from privacy.tee.snp_table import certificates_of

Kind = Literal["dcap", "snp", "nitro", "nvidia"]

MAX_BYTES = 1 << 20
_HEX = re.compile(rb"(?:0x)?([0-9a-fA-F]+)\s*\Z")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]{64,}={0,2}\s*\Z")
_MAX_PEM_BYTES = 1 << 13
_SIGN1 = (bytes.fromhex("8444a1013822"), bytes.fromhex("d28444a1013822"))
_DCAP_VERSIONS = {3, 4, 5}
_MAX_DEVICES = 64


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of evidence, still unparsed.

    Attributes:
        kind: Which parser it is for.
        certificates: DER, that came with it.
        composite: Of which this is the CPU; None for all others.
        enclave: What an enclave of ours showed with this, its CPU's; else None.
    """

    kind: Kind
    raw: bytes
    certificates: tuple[bytes, ...] = ()
    composite: Composite | None = None
    enclave: Evidence | None = None


def detect(raw: bytes) -> tuple[Item, ...]:
    """Return the pieces of evidence in a file, a composite's CPU first.

    Raises:
        FormatError: No format that is known.
    """
    if len(raw) > MAX_BYTES:
        msg = f"the evidence has {len(raw)} bytes, at most {MAX_BYTES} are allowed"
        raise FormatError(msg, code="too-large")
    if _kind(raw) is not None:
        return (_one(raw),)
    if raw.lstrip()[:1] == b"[":
        return _devices(raw)
    if raw[:1] == b"{":
        return _own(raw.removesuffix(b"\n"))
    if (match := _HEX.match(raw)) and len(match.group(1)) % 2 == 0:
        return (_one(bytes.fromhex(match.group(1).decode())),)
    if _BASE64.match(raw):
        return (_one(_base64(raw)),)
    return (_one(raw),)


def pem_certificates(raw: bytes) -> tuple[bytes, ...]:
    """Return every PEM certificate in a text, as DER.

    Raises:
        FormatError: One of them is none.
    """
    blocks = pem_blocks(raw, b"CERTIFICATE", limit=_MAX_PEM_BYTES)
    try:
        found = [x509.load_pem_x509_certificate(block) for block in blocks]
    except (ValueError, x509.InvalidVersion) as exc:
        raise FormatError("a PEM block is not a certificate") from exc
    return tuple(c.public_bytes(Encoding.DER) for c in found)


def pem_blocks(raw: bytes, label: bytes, *, limit: int) -> list[bytes]:
    """Return every PEM block with that label, in time that grows with the text.

    Raises:
        FormatError: One does not end within `limit` bytes.
    """
    begin, end = b"-----BEGIN %b-----" % label, b"-----END %b-----" % label
    found, at = [], raw.find(begin)
    while at >= 0:
        stop = raw.find(end, at, at + limit)
        if stop < 0:
            raise FormatError("a PEM block does not end", code="truncated")
        found.append(raw[at : stop + len(end)])
        at = raw.find(begin, stop)
    return found


def _kind(raw: bytes) -> Kind | None:
    version, key_type = (int.from_bytes(raw[i : i + 2], "little") for i in (0, 2))
    tee_type = int.from_bytes(raw[4:8], "little")
    if version in _DCAP_VERSIONS and key_type == KEY_TYPE_P256:
        return "dcap" if tee_type in {TEE_TYPE_SGX, TEE_TYPE_TDX} else None
    if raw.startswith(_SIGN1):
        return "nitro"
    if raw.startswith(REQUEST_HEAD):
        return "nvidia"
    if version in SNP_VERSIONS and raw[2:4] == bytes(2):
        return "snp"
    return None


def _one(raw: bytes) -> Item:
    kind = _kind(raw)
    if kind is None:
        msg = (
            f"the evidence begins with {raw[:8].hex() or 'nothing'}: neither a DCAP "
            "quote (SGX, TDX), an SEV-SNP report, a Nitro document nor an NVIDIA report"
        )
        raise FormatError(msg, code="unknown-format")
    table = raw[REPORT_BYTES:]
    if kind == "snp" and any(table):
        return Item(kind, raw[:REPORT_BYTES], certificates_of(table))
    return Item(kind, raw)


def _own(raw: bytes) -> tuple[Item, ...]:
    if b'"devices"' not in raw:
        return _of_enclave(parse_evidence(raw))
    value = parse_canonical(raw, what="composite evidence", limit=MAX_BYTES)
    if value.get("format") != COMPOSITE:
        raise FormatError(f"the evidence is JSON, but not {COMPOSITE}")
    return _composite(parse_composite(value))


def _of_enclave(shown: Evidence) -> tuple[Item, ...]:
    if not shown.device_evidence:
        return (replace(_one(shown.quote), enclave=shown),)
    devices = parse_devices(shown.device_evidence)
    cpu, *others = _composite(Composite(shown.quote, devices, shown.bound))
    return replace(cpu, enclave=shown), *others


def _composite(composite: Composite) -> tuple[Item, ...]:
    cpu = _one(composite.cpu)
    devices = tuple(
        replace(_one(device.report), certificates=device.certificates)
        for device in composite.devices
    )
    if cpu.kind == "nvidia" or any(device.kind != "nvidia" for device in devices):
        raise FormatError("a composite is evidence of one CPU and of NVIDIA devices")
    return replace(cpu, composite=composite), *devices


def _base64(text: str | bytes) -> bytes:
    joined = b"".join((text.encode() if isinstance(text, str) else text).split())
    try:
        return base64.b64decode(joined, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise FormatError("the evidence is not base64") from exc


def _devices(raw: bytes) -> tuple[Item, ...]:
    value = parse_json(raw, what="list of devices", limit=MAX_BYTES)
    if not 0 < len(value) <= _MAX_DEVICES:
        msg = f"the list names {len(value)} devices, expected 1 to {_MAX_DEVICES}"
        raise FormatError(msg)
    return tuple(_device(entry) for entry in value)


def _device(entry: object) -> Item:
    parts = entry if isinstance(entry, dict) else {}
    evidence, certificate = parts.get("evidence"), parts.get("certificate")
    if not isinstance(evidence, str) or not isinstance(certificate, str):
        raise FormatError("a device in the list lacks its evidence or certificate")
    item = _one(_base64(evidence))
    return Item(item.kind, item.raw, pem_certificates(_base64(certificate)))
