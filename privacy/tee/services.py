"""What the vendors' services are to be asked for, given evidence. Pure.

    Intel    provisioning certification service (PCS) v4: TCB info, QE identity, CRLs
    AMD      key distribution service (KDS): VCEK, CAs, CRL. It gives no VLEK: that
             comes from the cloud provider, with the report

AWS has no such service: a Nitro document brings all it needs.

What is asked for follows from evidence that nobody verified yet, so a host that lies
can choose which platform is asked about, and nothing else.

Source: Intel PCS API v4; AMD VCEK certificate and KDS interface specification (57230).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote as quoted

from privacy.errors import CannotVerifyError, FormatError
from privacy.tee.chain import load_certificate
from privacy.tee.detect import Item, detect
from privacy.tee.inventory import Kind, common_name
from privacy.tee.parse import SgxReport, parse_quote
from privacy.tee.pck import platform_of
from privacy.tee.snp import VCEK, SnpReport, parse_snp_report, tcb_versions

SERVICES = {
    "intel": "https://api.trustedservices.intel.com",
    "intel-certificates": "https://certificates.trustedservices.intel.com",
    "amd": "https://kdsintf.amd.com",
}
"""Where the vendors answer, by the name that a user may point elsewhere."""

PRODUCTS = ("Milan", "Genoa", "Turin")
_SGX, _TDX = "/sgx/certification/v4", "/tdx/certification/v4"
_MILAN, _GENOA, _TURIN = PRODUCTS
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
    """

    service: str
    path: str
    kind: Kind
    about: str = ""
    chain_header: str = ""

    @property
    def words(self) -> str:
        """What this is, for people."""
        return f"{self.kind} {self.about}".strip()


def wanted(evidence: bytes, *, product: str | None = None) -> tuple[Wanted, ...]:
    """Return what to ask for to verify the evidence in a file.

    Args:
        evidence: Of any format.
        product: AMD's processor family, for reports that do not name it.

    Raises:
        FormatError: No evidence that is known.
        CannotVerifyError: A report does not say which processor it is of.
    """
    if product not in {None, *PRODUCTS}:
        msg = f"{product!r} is no processor family, expected one of {PRODUCTS}"
        raise FormatError(msg, code="usage")
    found = (w for item in detect(evidence) for w in _of(item, product))
    return tuple(dict.fromkeys(found))


def _of(item: Item, product: str | None) -> Iterator[Wanted]:
    if item.kind == "dcap":
        yield from _intel(item.raw)
    elif item.kind == "snp":
        yield from _amd(parse_snp_report(item.raw), product)


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
