"""AMD SEV-SNP attestation reports, versions 2, 3 and 5. Pure.

The report's 1,184 bytes hold no certificate: the chip's key (VCEK) or the cloud
provider's (VLEK) comes beside it. The CAs above are shipped and pinned.

    1. The leaf chains to AMD's root of one processor family, at the given time.
    2. Its kind, VCEK or VLEK, is what the report says it was signed with.
    3. It was issued for the chip and the TCB version that the report names.
    4. It signed the report.

Source: AMD SEV-SNP firmware ABI specification (56860), table "ATTESTATION_REPORT";
VCEK certificate and KDS interface specification (57230), section 3.1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from privacy.encoding import Json
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.tee import der
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
from privacy.tee.trust import (
    AmdProduct,
    TrustStore,
    hardware_trust_store,
    of_other_kind,
    simulated_trust_store,
)

REPORT_BYTES, SIGNED_BYTES = 0x4A0, 0x2A0
VERSIONS = (2, 3, 5)
MAX_BYTES = 1 << 14
VCEK, VLEK = 0, 1

_AMD = "1.3.6.1.4.1.3704.1"
_HARDWARE_ID = x509.ObjectIdentifier(f"{_AMD}.4")
_RULES = Rules(
    names=("AMD root key (ARK)", "AMD signing key", "certificate of the report's key"),
    curve=ec.SECP384R1,
    digest=SHA384,
    rsa=True,
    bare_leaf=True,
)
_TCB = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TCB_TURIN = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
_TCB_OIDS = {
    "bootloader": x509.ObjectIdentifier(f"{_AMD}.3.1"),
    "tee": x509.ObjectIdentifier(f"{_AMD}.3.2"),
    "snp": x509.ObjectIdentifier(f"{_AMD}.3.3"),
    "microcode": x509.ObjectIdentifier(f"{_AMD}.3.8"),
    "fmc": x509.ObjectIdentifier(f"{_AMD}.3.9"),
}
_TURIN, _TURIN_ID_BYTES = "Turin", 8
_DEBUG = 1 << 19


@dataclass(frozen=True, slots=True)
class SnpReport:
    """A report, taken apart; nothing in it is verified."""

    raw: bytes

    def _at(self, offset: int, size: int) -> bytes:
        return self.raw[offset : offset + size]

    def _int(self, offset: int, size: int) -> int:
        return int.from_bytes(self._at(offset, size), "little")

    @property
    def version(self) -> int:
        """Of the report's layout."""
        return self._int(0, 4)

    @property
    def guest_svn(self) -> int:
        """Of the guest's image, as its owner numbers them."""
        return self._int(4, 4)

    @property
    def policy(self) -> int:
        """The guest's policy; bit 19 allows debugging."""
        return self._int(0x08, 8)

    @property
    def vmpl(self) -> int:
        """Privilege level that asked, 0 (highest) to 3."""
        return self._int(0x30, 4)

    @property
    def signing_key(self) -> int:
        """0 for VCEK, 1 for VLEK, 7 for none."""
        return self._int(0x48, 4) >> 2 & 7

    @property
    def report_data(self) -> bytes:
        """What the guest vouches for, 64 bytes."""
        return self._at(0x50, 64)

    @property
    def measurement(self) -> bytes:
        """Of the guest at launch, 48 bytes."""
        return self._at(0x90, 48)

    @property
    def reported_tcb(self) -> bytes:
        """The TCB version whose key signed, 8 bytes."""
        return self._at(0x180, 8)

    @property
    def cpuid(self) -> bytes:
        """Family, model and stepping of the processor; zeros before version 3."""
        return self._at(0x188, 3)

    @property
    def chip_id(self) -> bytes:
        """64 bytes; Turin uses the first 8."""
        return self._at(0x1A0, 64)

    @property
    def signature(self) -> bytes:
        """The signature, r and s, 48 bytes each, big-endian.

        Raises:
            FormatError: A number in it is longer.
        """
        numbers = [self._int(at, 72) for at in (0x2A0, 0x2E8)]
        if any(n.bit_length() > 384 for n in numbers):  # noqa: PLR2004 - P-384
            raise FormatError("the report's signature holds a number beyond 48 bytes")
        return b"".join(n.to_bytes(48, "big") for n in numbers)

    def as_dict(self) -> Json:
        """Return every field, JSON-ready, bytes in hex."""
        fields = {
            "family_id": (0x10, 16),
            "image_id": (0x20, 16),
            "current_tcb": (0x38, 8),
            "platform_info": (0x40, 8),
            "report_data": (0x50, 64),
            "measurement": (0x90, 48),
            "host_data": (0xC0, 32),
            "id_key_digest": (0xE0, 48),
            "author_key_digest": (0x110, 48),
            "report_id": (0x140, 32),
            "report_id_ma": (0x160, 32),
            "reported_tcb": (0x180, 8),
            "cpuid": (0x188, 3),
            "chip_id": (0x1A0, 64),
            "committed_tcb": (0x1E0, 8),
            "current_version": (0x1E8, 3),
            "committed_version": (0x1EC, 3),
            "launch_tcb": (0x1F0, 8),
            "mitigations": (0x1F8, 16),
            "signature": (0x2A0, 144),
        }
        return {
            "version": self.version,
            "guest_svn": self.guest_svn,
            "policy": f"{self.policy:#x}",
            "vmpl": self.vmpl,
            "signing_key": {VCEK: "vcek", VLEK: "vlek"}.get(self.signing_key, "none"),
            **{name: self._at(*where).hex() for name, where in fields.items()},
        }


def parse_snp_report(raw: bytes) -> SnpReport:
    """Return a report taken apart; only zeros may follow its 1,184 bytes.

    Raises:
        FormatError: Not such a report, or unsigned bytes in it are not zero.
    """
    reader = Reader(raw, what="SNP report", limit=MAX_BYTES)
    report = SnpReport(reader.take(REPORT_BYTES, "report"))
    algorithm = int.from_bytes(report.raw[0x34:0x38], "little")
    if report.version not in VERSIONS or algorithm != 1:
        msg = (
            f"the SNP report is of version {report.version}, signed with algorithm "
            f"{algorithm}; expected version {VERSIONS} and 1 (ECDSA P-384)"
        )
        raise FormatError(msg, code="unsupported-report")
    if any(report.raw[0x330:]) or any(reader.rest()):
        msg = "unsigned bytes of the SNP report, or bytes behind it, are not zero"
        raise FormatError(msg, code="not-canonical")
    return report


def verify_snp_report(
    report: SnpReport,
    trust_store: TrustStore,
    *,
    certificates: Iterable[bytes],
    now: datetime,
    checks: Checklist,
) -> Claims:
    """Return what a genuine report says.

    Args:
        report: From `parse_snp_report`.
        trust_store: Whom to trust.
        certificates: DER; one of them is the VCEK or VLEK. Others are ignored.
        now: When certificates must be valid.
        checks: Gets a line for every step.

    Raises:
        VerificationError: The report is not genuine.
        CannotVerifyError: No certificate of a VCEK or VLEK was given.
    """
    with checks.step("certificate", "a VCEK or VLEK beside the report"):
        leaf, product = _choose(report, trust_store, certificates)
    ca = product.ask if report.signing_key == VCEK else product.asvk
    with checks.step("certificate-chain", f"ARK-{product.name} to the report's key"):
        chain = verify_chain(
            [leaf, ca, product.ark], roots=[product.ark], rules=_RULES, now=now
        )
    with checks.step("report-signature", "signed by that key"):
        check_raw_signature(
            public_key(chain[0]),
            report.signature,
            report.raw[:SIGNED_BYTES],
            code="report-signature",
            what="the report was not signed by the certificate's key: it was changed, "
            "or the certificate is another chip's or of another TCB version",
        )
    with checks.step("certificate-tcb", "issued for the report's TCB version"):
        svns = _check_tcb(report, chain[0], product)
    if report.signing_key == VCEK:
        with checks.step("certificate-chip", "issued for the report's chip"):
            _check_chip(report, chain[0], product)
    return Claims(
        format=f"snp-v{report.version}",
        vendor="amd",
        simulated=trust_store.simulated,
        debug=bool(report.policy & _DEBUG),
        measurements={"measurement": report.measurement.hex(), **_settings(report)},
        report_data=report.report_data.hex(),
        product=product.name,
        hardware_id=report.chip_id.hex(),
        svns=svns | {"vmpl": report.vmpl, "guest_svn": report.guest_svn},
        chain=chain,
        unchecked=("revocation",),
    )


def _settings(report: SnpReport) -> dict[str, str]:
    """Return what else a policy may ask for: whose guest it is, how it is set up."""
    said = ("family_id", "image_id", "host_data", "id_key_digest", "author_key_digest")
    fields = report.as_dict()
    return {name: fields[name] for name in said} | {
        "policy": f"{report.policy:016x}",
        "vmpl": f"{report.vmpl:08x}",
    }


def _choose(
    report: SnpReport, trust_store: TrustStore, certificates: Iterable[bytes]
) -> tuple[bytes, AmdProduct]:
    """Return the leaf to check and its family: by issuer, preferring the right TCB."""
    given = [(raw, load_certificate(raw, "certificate")) for raw in certificates]
    found = [
        (_signs(report, leaf), raw, product)
        for raw, leaf in given
        for product in trust_store.amd
        if _issued(report, leaf, product)
    ]
    if not found:
        other = _other(trust_store)
        if any(_issued(report, leaf, p) for _, leaf in given for p in other.amd):
            raise of_other_kind(simulated=other.simulated)
        kind = {VCEK: "VCEK", VLEK: "VLEK"}.get(report.signing_key, "key that exists")
        msg = (
            f"the report was signed by a {kind}, whose certificate was not given: "
            "get it from the host, or from AMD for this chip and TCB version"
        )
        raise CannotVerifyError(msg, code="certificate-missing")
    _, raw, product = max(found, key=lambda f: f[0])
    return raw, product


def _other(trust_store: TrustStore) -> TrustStore:
    simulated = trust_store.simulated
    return hardware_trust_store() if simulated else simulated_trust_store()


def _issued(report: SnpReport, leaf: x509.Certificate, product: AmdProduct) -> bool:
    """Whether a leaf names the family's CA as its issuer; its signature comes later."""
    ca = product.ask if report.signing_key == VCEK else product.asvk
    named = names(leaf)
    return (
        named is not None and named[1] == load_certificate(ca, _RULES.names[1]).subject
    )


def _signs(report: SnpReport, leaf: x509.Certificate) -> bool:
    try:
        signed, what = report.raw[:SIGNED_BYTES], "the report's signature"
        key = public_key(leaf)
        check_raw_signature(
            key, report.signature, signed, code="report-signature", what=what
        )
    except (VerificationError, ValueError):
        return False
    return True


def tcb_versions(report: SnpReport, *, turin: bool) -> dict[str, int]:
    """Return the security versions that the report names; Turin orders its own way."""
    layout = _TCB_TURIN if turin else _TCB
    return {name: report.reported_tcb[at] for name, at in layout.items()}


def _check_tcb(
    report: SnpReport, leaf: x509.Certificate, product: AmdProduct
) -> dict[str, int]:
    reported = tcb_versions(report, turin=product.name.endswith(_TURIN))
    issued = {}
    for name in reported:
        raw = extension_value(leaf, _TCB_OIDS[name])
        what = f"{name} version in the certificate"
        if raw is None:
            raise VerificationError(f"there is no {what}", code="tcb-mismatch")
        content = der.only(raw, der.INTEGER, what=what)
        issued[name] = der.integer(content, what=what)
    if issued != reported:
        msg = f"the certificate is for TCB {issued}, the report says {reported}"
        raise VerificationError(msg, code="tcb-mismatch")
    return reported


def _check_chip(report: SnpReport, leaf: x509.Certificate, product: AmdProduct) -> None:
    found = extension_value(leaf, _HARDWARE_ID)
    size = _TURIN_ID_BYTES if product.name.endswith(_TURIN) else len(report.chip_id)
    chip_id, rest = report.chip_id[:size], report.chip_id[size:]
    forms = {chip_id, bytes([der.OCTETS, size]) + chip_id}
    if found not in forms or any(rest) or not any(chip_id):
        msg = (
            f"the certificate is of chip {(found or b'').hex()[:16]}, the report says "
            f"{chip_id.hex()[:16]}"
        )
        raise VerificationError(msg, code="chip-mismatch")
