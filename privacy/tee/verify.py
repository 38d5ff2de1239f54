"""Cryptography of a quote: whether it is genuine, not whether it is wanted. Pure.

    1. The quote's root is the one the trust store pins.
    2. The chain root, PCK CA, PCK leaf holds at the given time.
    3. The PCK leaf signed the quoting enclave's report.
    4. The quoting enclave is the vendor's, and not in debug mode.
    5. The quoting enclave vouches for the attestation key.
    6. The attestation key signed header and TD report.

Not checked here: collateral. Whether the platform's firmware (TCB) is up to date, and
whether a certificate was revoked, is looked up by `privacy.tee.attest`.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from privacy.errors import FormatError, VerificationError
from privacy.tee.chain import INTEL, public_key, verify_chain
from privacy.tee.checks import Checklist
from privacy.tee.parse import Quote, SgxReport
from privacy.tee.signature import check_raw_signature
from privacy.tee.trust import (
    SGX_QE_PRODUCT_ID,
    TD_QE_PRODUCT_ID,
    TrustStore,
    check_root,
)

AnyQuote = TypeVar("AnyQuote", bound=Quote)

# Flags INIT and PROVISION_KEY set, all others but bit 2 clear: bit 1 is debug.
_QE_FLAGS, _QE_FLAGS_MASK = 0x11, 0xFFFFFFFFFFFFFFFB


@dataclass(frozen=True, slots=True)
class VerifiedEvidence(Generic[AnyQuote]):
    """A genuine quote; `privacy.tee.appraise` decides whether it is acceptable.

    Attributes:
        simulated: It chains to the simulated vendor, so it proves nothing.
        verified_at: The time that certificates were checked at.
        certificates: The chain that was checked: PCK leaf, PCK CA and root.
    """

    quote: AnyQuote
    simulated: bool
    verified_at: datetime
    certificates: tuple[x509.Certificate, ...]


def verify_quote(
    quote: AnyQuote,
    trust_store: TrustStore,
    *,
    now: datetime,
    checks: Checklist | None = None,
) -> VerifiedEvidence[AnyQuote]:
    """Return the quote as genuine evidence.

    Args:
        quote: From `parse_quote` or `parse_tdx_quote`.
        trust_store: Whom to trust; its type says whether that is hardware.
        now: When certificates must be valid, with a time zone.
        checks: Gets a line for every step, also when one fails.

    Raises:
        VerificationError: The quote is not genuine; the code says which step failed.
    """
    if now.tzinfo is None:
        raise FormatError("the time to verify at has no time zone: give UTC")
    checks = checks or Checklist()
    with checks.step("root", f"a pinned {trust_store.kind} root"):
        check_root(quote.certificates[-1], trust_store.intel)
    with checks.step("certificate-chain", f"root, PCK CA, PCK at {now.isoformat()}"):
        chain = verify_chain(
            quote.certificates, roots=[trust_store.intel], rules=INTEL, now=now
        )
    with checks.step("qe-signature", "QE report signed by the PCK certificate"):
        check_raw_signature(
            public_key(chain[0]),
            quote.qe_signature,
            quote.qe_report.raw,
            code="qe-signature",
            what="the quoting enclave's report was not signed by the PCK certificate",
        )
    with checks.step("qe-identity", "the vendor's quoting enclave, not in debug mode"):
        _check_qe_identity(quote, trust_store)
    with checks.step("qe-binding", "QE report vouches for the attestation key"):
        _check_qe_binding(quote)
    with checks.step("quote-signature", "header and report signed by attestation key"):
        check_raw_signature(
            _attestation_key(quote.attestation_key),
            quote.signature,
            quote.signed_bytes,
            code="quote-signature",
            what="the quote was not signed by its attestation key: it was changed",
        )
    return VerifiedEvidence(
        quote=quote,
        simulated=trust_store.simulated,
        verified_at=now,
        certificates=chain,
    )


def _check_qe_binding(quote: Quote) -> None:
    binding = hashlib.sha256(quote.attestation_key + quote.qe_auth).digest()
    if quote.qe_report.report_data != binding + bytes(32):
        msg = "the quoting enclave does not vouch for the quote's attestation key"
        raise VerificationError(msg, code="qe-binding")


def _check_qe_identity(quote: Quote, trust_store: TrustStore) -> None:
    qe = quote.qe_report
    flags = int.from_bytes(qe.attributes[:8], "little") & _QE_FLAGS_MASK
    if isinstance(quote.report, SgxReport):
        signer, product = trust_store.sgx_qe_mrsigner, SGX_QE_PRODUCT_ID
    else:
        signer, product = trust_store.qe_mrsigner, TD_QE_PRODUCT_ID
    if (qe.mrsigner, qe.product_id, flags) != (signer, product, _QE_FLAGS):
        msg = (
            f"the quoting enclave is signed by {qe.mrsigner.hex()[:12]}, product "
            f"{qe.product_id}, flags {flags:#x}; expected "
            f"{signer.hex()[:12]}, {product}, {_QE_FLAGS:#x}"
        )
        raise VerificationError(msg, code="qe-identity")


def _attestation_key(point: bytes) -> ec.EllipticCurvePublicKey:
    x, y = int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big")
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as exc:
        msg = "the attestation key is not a point on P-256"
        raise VerificationError(msg, code="quote-signature") from exc
