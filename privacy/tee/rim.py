"""NVIDIA's reference measurements (RIM): signed XML, and the comparison. Pure.

    1. The document's signature is by a certificate under NVIDIA's pinned RIM root.
    2. The digest that is signed is the document's.
    3. A device's report shows one of the values that its driver's and its VBIOS's
       documents give for every measurement they call active.

Source: TCG Reference Integrity Manifest information model; ISO/IEC 19770-2 (SWID);
NVIDIA's published verifier for what is compared with what.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from privacy.errors import FormatError
from privacy.tee.chain import Rules, public_key, verify_chain
from privacy.tee.signature import check_raw_signature
from privacy.tee.trust import TrustStore
from privacy.tee.xmldsig import Element, Signed, parse_xml, signature_of

MAX_RIM_BYTES = 1 << 20
_REMEMBERED, _REMEMBERED_BYTES = 16, 1 << 17
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
_DIGEST = re.compile(r"[0-9a-fA-F]{96}")
_NUMBER = re.compile(r"[0-9]{1,4}")
_MAX_ALTERNATIVES = 64
_MIN_CHAIN, _MAX_CHAIN = 2, 8
_RULES = Rules(
    names=("NVIDIA RIM root", "NVIDIA RIM certificate", "RIM signer's certificate"),
    curve=ec.SECP384R1,
    digest=SHA384,
)


@dataclass(frozen=True, slots=True)
class Rim:
    """Reference measurements, taken apart; nothing in them is verified.

    Attributes:
        product: Of the device, such as `GH100`.
        version: Of the driver or the VBIOS, in lower case.
        values: By index, from 0: the values that are good, of active ones.
        signed: The signature.
    """

    product: str
    version: str
    values: dict[int, tuple[bytes, ...]]
    signed: Signed

    @property
    def about(self) -> str:
        """Product and version, in capitals."""
        return f"{self.product} {self.version}".upper()


def parse_rim(raw: bytes) -> Rim:
    """Return reference measurements taken apart.

    Raises:
        FormatError: Not such a document.
    """
    if len(raw) > MAX_RIM_BYTES:
        raise FormatError("the RIM has more than 1 MiB", code="too-large")
    small = len(raw) <= _REMEMBERED_BYTES
    return (_parse if small else _parse.__wrapped__)(raw)


@functools.lru_cache(maxsize=_REMEMBERED)
def _parse(raw: bytes) -> Rim:
    root = parse_xml(raw, what="RIM")
    if root.qualified != (_SWID, "SoftwareIdentity"):
        raise FormatError("the XML is no RIM: its root is no SoftwareIdentity")
    meta = root.only(_SWID, "Meta").attributes
    signed = signature_of(root)
    if not _MIN_CHAIN <= len(signed.certificates) <= _MAX_CHAIN:
        raise FormatError("the RIM does not bring its signer's certificate chain")
    return Rim(
        product=meta.get("product", ""),
        version=meta.get("colloquialVersion", "").lower(),
        values=_values(root.only(_SWID, "Payload")),
        signed=signed,
    )


def _values(payload: Element) -> dict[int, tuple[bytes, ...]]:
    values: dict[int, tuple[bytes, ...]] = {}
    seen = set()
    for resource in payload.elements:
        given = resource.values()
        index = _number(given.get(("", "index")))
        count = _number(given.get(("", "alternatives")))
        if resource.qualified != (_SWID, "Resource") or index in seen:
            raise FormatError(f"the RIM's payload is not one of measurements ({index})")
        seen.add(index)
        if given.get(("", "active")) == "False":
            continue
        if not 0 < count <= _MAX_ALTERNATIVES:
            raise FormatError(f"the RIM gives {count} values for measurement {index}")
        digests = [given.get((_SHA384, f"Hash{i}"), "") for i in range(count)]
        if not all(map(_DIGEST.fullmatch, digests)):
            raise FormatError(f"the RIM's values of measurement {index} are no SHA-384")
        values[index] = tuple(bytes.fromhex(d) for d in digests)
    if not values:
        raise FormatError("the RIM gives no value at all")
    return values


def _number(text: str | None) -> int:
    if text is None or not _NUMBER.fullmatch(text):
        raise FormatError("a measurement in the RIM lacks its index or its count")
    return int(text)


def verify_rim(
    rim: Rim, trust_store: TrustStore, *, now: datetime
) -> tuple[x509.Certificate, ...]:
    """Return the signer's certificate chain, leaf first, of a genuine RIM.

    Raises:
        VerificationError: NVIDIA did not sign it, or its certificates are not valid.
    """
    roots = [trust_store.nvidia_rim]
    chain = verify_chain(rim.signed.certificates, roots=roots, rules=_RULES, now=now)
    _check_signature(chain[0], rim.signed.signature, rim.signed.signed_bytes)
    rim.signed.check_digest()
    return chain


@functools.lru_cache(maxsize=_REMEMBERED)
def _check_signature(signer: x509.Certificate, signature: bytes, signed: bytes) -> None:
    """Check a signature; one that is good is remembered, time cannot change it."""
    check_raw_signature(
        public_key(signer),
        signature,
        signed,
        code="rim-signature",
        what="the RIM was not signed by its certificate",
    )


def mismatches(rim: Rim, measurements: Mapping[int, bytes]) -> list[int]:
    """Return the indexes, from 0, where a report shows none of the RIM's values.

    Args:
        rim: Already verified.
        measurements: Of the report, by index from 1.
    """
    return [
        index
        for index, good in sorted(rim.values.items())
        if measurements.get(index + 1) not in good
    ]
