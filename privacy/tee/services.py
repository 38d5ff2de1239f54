"""What the vendors' services are to be asked for, given evidence. Pure.

    Intel    provisioning certification service (PCS) v4: TCB info, QE identity, CRLs
    AMD      key distribution service (KDS): VCEK, CAs, CRL. It gives no VLEK: that
             comes from the cloud provider, with the report
    NVIDIA   OCSP responses on certificates, RIM service for reference measurements

AWS is not asked: a Nitro document brings all it needs.

What is asked for follows from evidence that nobody verified yet, so a host that lies
can choose which platform is asked about, and nothing else.

Source: Intel PCS API v4; AMD VCEK certificate and KDS interface specification (57230);
NVIDIA's published verifier for its services and the names of RIMs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote as quoted

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPRequestBuilder

from privacy.errors import CannotVerifyError, FormatError
from privacy.tee.chain import load_certificate
from privacy.tee.detect import Item, detect
from privacy.tee.inventory import Kind, common_name
from privacy.tee.nvidia import NvidiaReport, parse_nvidia_report
from privacy.tee.parse import SgxReport, parse_quote
from privacy.tee.pck import platform_of
from privacy.tee.rim import parse_rim
from privacy.tee.snp import VCEK, SnpReport, parse_snp_report, tcb_versions

SERVICES = {
    "intel": "https://api.trustedservices.intel.com",
    "intel-certificates": "https://certificates.trustedservices.intel.com",
    "amd": "https://kdsintf.amd.com",
    "nvidia-ocsp": "https://ocsp.ndis.nvidia.com",
    "nvidia-rim": "https://rim.attestation.nvidia.com",
}
"""Where the vendors answer, by the name that a user may point elsewhere."""

PRODUCTS = ("Milan", "Genoa", "Turin")
_SGX, _TDX = "/sgx/certification/v4", "/tdx/certification/v4"
_MILAN, _GENOA, _TURIN = PRODUCTS
_SWITCH_BOARD = ("5612", "0002", "890")  # in no report: all LS10 have this
_ZEN3, _ZEN5, _NAMES_PRODUCT = 0x19, 0x1A, 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer of a vendor's service.

    Attributes:
        service: A name in `SERVICES`.
        path: Below the service's address, with its query.
        kind: What must be in the answer.
        about: What that must be about, as the inventory says it; empty for anything.
        chain_header: The header that brings the signer's certificates, if any does.
        body: What to send; empty to send nothing.
    """

    service: str
    path: str
    kind: Kind
    about: str = ""
    chain_header: str = ""
    body: bytes = b""

    @property
    def words(self) -> str:
        """What this is, for people."""
        return f"{self.kind} {self.about}".strip()


def wanted(
    evidence: bytes, *, product: str | None = None, beside: Sequence[bytes] = ()
) -> tuple[Wanted, ...]:
    """Return what to ask for to verify the evidence in a file.

    Args:
        evidence: Of any format.
        beside: Certificates that came with it, DER.
        product: AMD's processor family, for reports that do not name it.

    Raises:
        FormatError: No evidence that is known.
        CannotVerifyError: A report does not say which processor it is of.
    """
    if product not in {None, *PRODUCTS}:
        msg = f"{product!r} is no processor family, expected one of {PRODUCTS}"
        raise FormatError(msg, code="usage")
    items = detect(evidence)
    try:
        found = [w for item in items for w in _of(item, product, beside)]
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        msg = f"a certificate of the evidence has odd values ({type(exc).__name__})"
        raise FormatError(msg) from exc
    return tuple(dict.fromkeys(found))


def wanted_of_rims(rims: Iterable[bytes]) -> tuple[Wanted, ...]:
    """Return what to ask for to know that nobody revoked the signers of RIMs."""
    chains = [parse_rim(raw).signed.certificates for raw in rims]
    try:
        return tuple(dict.fromkeys(one for chain in chains for one in _ocsp(chain)))
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        msg = f"a certificate of a RIM has odd values ({type(exc).__name__})"
        raise FormatError(msg) from exc


def _of(item: Item, product: str | None, beside: Sequence[bytes]) -> Iterator[Wanted]:
    if item.kind == "dcap":
        yield from _intel(item.raw)
    elif item.kind == "snp":
        yield from _amd(parse_snp_report(item.raw), product)
    elif item.kind == "nvidia":
        chain = item.certificates or beside
        yield from _nvidia(parse_nvidia_report(item.raw), chain)


def _nvidia(report: NvidiaReport, chain: Sequence[bytes]) -> Iterator[Wanted]:
    if not chain:
        msg = "the device's certificates did not come with the report: give them, too"
        raise CannotVerifyError(msg, code="certificate-missing")
    yield from _ocsp(chain[1:])  # the device made the leaf itself
    leaf = load_certificate(chain[0], "certificate")
    chip = report.chip or common_name(leaf.subject).partition(" ")[0]
    versions = report.versions
    if "driver" in versions:
        hopper = "" if report.chip else "GPU_DRIVER"
        name = f"NV_{hopper or 'GPU_CC_DRIVER'}_{chip}_{versions['driver']}"
        yield _rim(name, f"{chip} {versions['driver']}")
    board = _SWITCH_BOARD if report.is_switch else report.board
    kind = "SWITCH_BIOS" if report.is_switch else "GPU_VBIOS"
    version = versions["vbios"].replace(".", "")
    about = "" if report.is_switch else f"{chip} {versions['vbios']}"
    yield _rim("_".join(("NV", kind, *board, version)).upper(), about)


def _rim(name: str, about: str) -> Wanted:
    path = f"/v1/rim/{quoted(name, safe='')}"
    return Wanted("nvidia-rim", path, "rim", about.upper())


def _ocsp(chain: Sequence[bytes]) -> Iterator[Wanted]:
    certificates = [load_certificate(raw, "certificate") for raw in chain]
    for certificate, issuer in pairwise(certificates):
        builder = OCSPRequestBuilder().add_certificate(certificate, issuer, SHA384())
        body = builder.build().public_bytes(Encoding.DER)
        about = f"{certificate.serial_number:x}"
        yield Wanted("nvidia-ocsp", "/", "ocsp", about, body=body)


def _intel(raw: bytes) -> Iterator[Wanted]:
    quote = parse_quote(raw)
    pck, _, root = (load_certificate(der, "certificate") for der in quote.certificates)
    fmspc = platform_of(pck).fmspc.hex().upper()
    ca = common_name(pck.issuer)
    which = "processor" if "Processor" in ca else "platform"
    sgx = isinstance(quote.report, SgxReport)
    base, tee, qe = (_SGX, "SGX", "QE") if sgx else (_TDX, "TDX", "TD_QE")
    yield Wanted(
        "intel",
        f"{base}/tcb?fmspc={fmspc}",
        "tcb-info",
        f"{tee} {fmspc}",
        "TCB-Info-Issuer-Chain",
    )
    yield Wanted(
        "intel",
        f"{base}/qe/identity",
        "qe-identity",
        qe,
        "SGX-Enclave-Identity-Issuer-Chain",
    )
    yield Wanted(
        "intel",
        f"{_SGX}/pckcrl?ca={which}&encoding=der",
        "crl",
        ca,
        "SGX-PCK-CRL-Issuer-Chain",
    )
    yield Wanted(
        "intel-certificates", "/IntelSGXRootCA.der", "crl", common_name(root.subject)
    )


def _amd(report: SnpReport, product: str | None) -> Iterator[Wanted]:
    name = product or product_of(report)
    vcek = report.signing_key == VCEK
    base = f"/{'vcek' if vcek else 'vlek'}/v1/{quoted(name)}"
    if vcek:
        turin = name == _TURIN
        chip = report.chip_id[:8] if turin else report.chip_id
        if not any(chip):
            msg = "the report's chip id is masked: its host must give the certificate"
            raise CannotVerifyError(msg, code="certificate-missing")
        versions = tcb_versions(report, turin=turin).items()
        names = {"bootloader": "bl", "microcode": "ucode"}
        query = "&".join(f"{names.get(n, n)}SPL={v:02}" for n, v in versions)
        yield Wanted("amd", f"{base}/{chip.hex()}?{query}", "certificate")
    yield Wanted("amd", f"{base}/cert_chain", "certificate")
    yield Wanted("amd", f"{base}/crl", "crl")


def product_of(report: SnpReport) -> str:
    """Return AMD's name of the processor family that the report is of.

    Raises:
        CannotVerifyError: It does not say, or one that is not known.
    """
    if report.version >= _NAMES_PRODUCT:
        family, model = report.cpuid[:2]
        if family == _ZEN3:
            return _MILAN if model < 0x10 else _GENOA  # noqa: PLR2004 - model ranges
        if family == _ZEN5:
            return _TURIN
    msg = (
        f"the report, version {report.version}, does not name a processor family that "
        "is known: give it with --product"
    )
    raise CannotVerifyError(msg, code="product-unknown")
