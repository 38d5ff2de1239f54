"""A simulated NVIDIA device: reports, reference measurements (RIM), OCSP responses."""

import base64
import hashlib
import secrets
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import (
    OCSPCertStatus,
    OCSPResponderEncoding,
    OCSPResponseBuilder,
)

from privacy.tee import der
from privacy.tee.collateral import Collateral
from privacy.tee.nvidia import REQUEST_HEAD, RESPONSE_HEAD
from privacy.tee.simulated_x509 import Signer, issue, issue_crl, known_key
from privacy.tee.trust import SimulatedTrustStore
from privacy.tee.xmldsig import DSIG, canonical, parse_xml

DRIVER, VBIOS, SWITCH_BIOS = "550.90.07", "96.00.9F.00.01", "96.10.55.00.01"
_VBIOS_BYTES = bytes.fromhex("009f009601000000")
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_MORE = "http://www.w3.org/2001/04/xmldsig-more#"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
_OCSP_VALID = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RimDefects:
    """What to get wrong in a RIM, signed properly all the same.

    Attributes:
        product: Instead of the device's.
        values: Good values by index from 0, instead of the report's.
        signer: Who signs instead.
        chain: Certificates to bring instead.
    """

    product: str = ""
    values: Mapping[int, Sequence[bytes]] = field(default_factory=dict)
    signer: Signer | None = None
    chain: Sequence[bytes] = ()


class SimulatedNvidia:
    """A GPU or a switch with its own roots.

    Attributes:
        chip: `GH100` (Hopper), `GB100` (Blackwell) or `LS10` (switch).
        measurements: That its RIMs call good, 48 bytes each.
    """

    def __init__(self, *, chip: str = "GH100", shipped: bool = False) -> None:
        """Make roots, intermediates, leaf and the signer of RIMs.

        Args:
            chip: What it is.
            shipped: Under the simulated roots that ship with this package, under which
                anyone can make devices, not under fresh ones.
        """
        self.chip = chip
        self.fwid = secrets.token_bytes(48)
        self.measurements = tuple(bytes([i]) * 48 for i in range(1, 5))
        keys = [known_key(n) if shipped else None for n in ("nvidia", "nvidia-rim")]
        self.root = issue("SIMULATED Device Identity CA", key=keys[0], ca=True)
        self.ca = issue(f"SIMULATED {chip} Identity", self.root, ca=True)
        extensions = {"2.23.133.5.4.1": bytes([der.OCTETS, 48]) + self.fwid}
        self.leaf = issue(f"{chip} SIMULATED", self.ca, extensions=extensions)
        self.rim_root = issue("SIMULATED CoRIM signing Root CA", key=keys[1], ca=True)
        self.rim_signer = issue("SIMULATED RIM Signer", self.rim_root)

    @property
    def is_switch(self) -> bool:
        """Whether it runs no driver."""
        return self.chip.startswith("LS")

    @property
    def trust_store(self) -> SimulatedTrustStore:
        """The store that accepts this device and nothing else."""
        return SimulatedTrustStore(
            intel=b"", nvidia=self.root.der, nvidia_rim=self.rim_root.der
        )

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificates that come beside a report: leaf first, root last."""
        return self.leaf.der, self.ca.der, self.root.der

    def collateral(self, now: datetime, *, revoked: Collection[int] = ()) -> Collateral:
        """Return all that a report is verified with: chain, OCSP, CRLs, RIMs.

        Args:
            now: When it is issued.
            revoked: Serial numbers of certificates.
        """
        half = len(self.measurements) // 2
        good = {i: [m] for i, m in enumerate(self.measurements)}
        driver = {i: v for i, v in good.items() if i < half}
        vbios = {i: v for i, v in good.items() if i >= half}
        rims = [self.rim(DRIVER, driver), self.rim(VBIOS, vbios)]
        if self.is_switch:
            rims = [self.rim(SWITCH_BIOS, good)]
        return Collateral(
            certificates=self.chain,
            ocsp=(ocsp_response(self.ca, self.root, now, revoked=revoked),),
            crls=(issue_crl(self.rim_root, now, revoked=revoked),),
            rims=tuple(rims),
        )

    def report(
        self,
        nonce: bytes,
        measurements: Sequence[bytes] | None = None,
        *,
        opaque: Mapping[int, bytes] | None = None,
    ) -> bytes:
        """Return a report; `opaque` overrides what the device says of itself."""
        shown = self.measurements if measurements is None else measurements
        record = b"".join(
            struct.pack("<BBHBH", i, 1, 3 + len(m), 1, len(m)) + m
            for i, m in enumerate(shown, start=1)
        )
        fields = self._opaque() | dict(opaque or {})
        data = b"".join(
            struct.pack("<HH", kind, len(v)) + v for kind, v in fields.items()
        )
        signed = REQUEST_HEAD + nonce + bytes(1) + RESPONSE_HEAD + bytes(2)
        signed += bytes([len(shown)]) + len(record).to_bytes(3, "little")
        signed += record + secrets.token_bytes(32) + struct.pack("<H", len(data)) + data
        return signed + b"".join(n.to_bytes(48, "big") for n in self.leaf.sign(signed))

    def _opaque(self) -> dict[int, bytes]:
        if self.is_switch:
            return {6: SWITCH_BIOS.encode() + b"\0", 20: self.fwid}
        board = {15: b"882\0\0", 17: b"1010\0", 18: b"0200\0"}
        fields = {**board, 3: DRIVER.encode() + b"\0", 6: _VBIOS_BYTES, 20: self.fwid}
        return fields if self.chip == "GH100" else fields | {35: self.chip.encode()}

    def rim(
        self,
        version: str,
        values: Mapping[int, Sequence[bytes]],
        defects: RimDefects = RimDefects(),
    ) -> bytes:
        """Return reference measurements of a driver or VBIOS, XML.

        Args:
            version: Of the driver or the VBIOS.
            values: Good values by index, from 0.
            defects: What to get wrong.
        """
        signer = defects.signer or self.rim_signer
        chain = defects.chain or (signer.der, self.rim_root.der)
        body = _body(defects.product or self.chip, version, defects.values or values)
        document = canonical(parse_xml(body.format("").encode(), what="RIM"))
        digest = base64.b64encode(hashlib.sha384(document).digest()).decode()
        unsigned = body.format(_signature(digest, "", chain))
        signature = parse_xml(unsigned.encode(), what="RIM").only(DSIG, "Signature")
        info = canonical(signature.only(DSIG, "SignedInfo"))
        raw = b"".join(n.to_bytes(48, "big") for n in signer.sign(info))
        value = base64.b64encode(raw).decode()
        return body.format(_signature(digest, value, chain)).encode()


def ocsp_response(
    certificate: Signer,
    issuer: Signer,
    now: datetime,
    *,
    revoked: Collection[int] = (),
    signer: Signer | None = None,
) -> bytes:
    """Return an OCSP response for a day, DER, with P-384 and SHA-384.

    Args:
        certificate: That is asked about.
        issuer: Of the certificate.
        now: When it is issued.
        revoked: Serial numbers that are.
        signer: Who signs instead of the issuer; its certificate is in the response.
    """
    gone = certificate.certificate.serial_number in revoked
    responder = signer or issuer
    builder = (
        OCSPResponseBuilder()
        .add_response(
            cert=certificate.certificate,
            issuer=issuer.certificate,
            algorithm=SHA384(),
            cert_status=OCSPCertStatus.REVOKED if gone else OCSPCertStatus.GOOD,
            this_update=now.replace(microsecond=0),
            next_update=now.replace(microsecond=0) + _OCSP_VALID,
            revocation_time=now if gone else None,
            revocation_reason=None,
        )
        .responder_id(OCSPResponderEncoding.HASH, responder.certificate)
    )
    if signer is not None:
        builder = builder.certificates([signer.certificate])
    if not isinstance(responder.key, ec.EllipticCurvePrivateKey):
        raise TypeError("responses are signed with elliptic keys")
    return builder.sign(responder.key, SHA384()).public_bytes(Encoding.DER)


def _body(product: str, version: str, values: Mapping[int, Sequence[bytes]]) -> str:
    """Return the XML, with braces where the signature goes."""
    lines = [
        (
            f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}"'
            f' xmlns:ns2="{_SHA384}" name="{product}" version="1.0">'
        ),
        f'<ns0:Meta colloquialVersion="{version}" product="{product}"/>',
        f'<ns0:Payload xmlns:SHA384="{_SHA384}">',
    ]
    for index, digests in values.items():
        hashes = "".join(f' ns2:Hash{i}="{d.hex()}"' for i, d in enumerate(digests))
        lines.append(
            f'<ns0:Resource type="Measurement" index="{index}" active="True"'
            f' alternatives="{len(digests)}"{hashes} size="48"/>'
        )
    return "\n".join([*lines, "</ns0:Payload>", "{}</SoftwareIdentity>"])


def _signature(digest: str, value: str, chain: Sequence[bytes]) -> str:
    certificates = "".join(
        f"<ds:X509Certificate>{base64.b64encode(c).decode()}</ds:X509Certificate>"
        for c in chain
    )
    return (
        f'<ds:Signature xmlns:ds="{DSIG}"><ds:SignedInfo>'
        f'<ds:CanonicalizationMethod Algorithm="{_C14N}"/>'
        f'<ds:SignatureMethod Algorithm="{_MORE}ecdsa-sha384"/>'
        '<ds:Reference URI=""><ds:Transforms>'
        f'<ds:Transform Algorithm="{DSIG}enveloped-signature"/>'
        f'<ds:Transform Algorithm="{_C14N}"/></ds:Transforms>'
        f'<ds:DigestMethod Algorithm="{_MORE}sha384"/>'
        f"<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
        f"<ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>"
        f"{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
    )
