"""Cryptography of a quote: whether it is genuine, not whether it is wanted. Pure.

    1. The quote's root is the one the trust store pins.
    2. The chain root, PCK CA, PCK leaf holds at the given time.
    3. The PCK leaf signed the quoting enclave's report.
    4. The quoting enclave is the vendor's, and not in debug mode.
    5. The quoting enclave vouches for the attestation key.
    6. The attestation key signed header and TD report.

Not checked yet: collateral. Whether the platform's firmware (TCB) is up to date, and
whether a certificate was revoked, is unknown; `VerifiedEvidence.collateral` says so.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from privacy.encoding import sha256_hex
from privacy.errors import FormatError, VerificationError
from privacy.tee.chain import verify_chain
from privacy.tee.parse import QeReport, TdxQuote
from privacy.tee.trust import (
    INTEL_ROOT_SHA256,
    SIMULATED_ROOT_SHA256,
    TD_QE_PRODUCT_ID,
    TrustStore,
)

Collateral = Literal["not checked"]

# Flags INIT and PROVISION_KEY set, all others but bit 2 clear: bit 1 is debug.
_QE_FLAGS, _QE_FLAGS_MASK = 0x11, 0xFFFFFFFFFFFFFFFB


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """A genuine quote; `privacy.tee.appraise` decides whether it is acceptable.

    Attributes:
        simulated: It chains to the simulated vendor, so it proves nothing.
        verified_at: The time that certificates were checked at.
        collateral: What is known of TCB status and revocation.
    """

    quote: TdxQuote
    simulated: bool
    verified_at: datetime
    collateral: Collateral


def verify_tdx_quote(
    quote: TdxQuote, trust_store: TrustStore, *, now: datetime
) -> VerifiedEvidence:
    """Return the quote as genuine evidence.

    Args:
        quote: From `parse_tdx_quote`.
        trust_store: Whom to trust; its type says whether that is hardware.
        now: When certificates must be valid, with a time zone.

    Raises:
        VerificationError: The quote is not genuine; the code says which step failed.
    """
    if now.tzinfo is None:
        raise FormatError("the time to verify at has no time zone: give UTC")
    _check_root(quote.certificates[-1], trust_store)
    pck = verify_chain(quote.certificates, root_der=trust_store.root_der, now=now)
    _check_p256(
        pck,
        quote.qe_signature,
        quote.qe_report.raw,
        code="qe-signature",
        what="the quoting enclave's report was not signed by the PCK certificate",
    )
    _check_qe_identity(quote.qe_report, trust_store)
    binding = hashlib.sha256(quote.attestation_key + quote.qe_auth).digest()
    if quote.qe_report.report_data != binding + bytes(32):
        msg = "the quoting enclave does not vouch for the quote's attestation key"
        raise VerificationError(msg, code="qe-binding")
    _check_p256(
        _public_key(quote.attestation_key),
        quote.signature,
        quote.signed_bytes,
        code="quote-signature",
        what="the quote was not signed by its attestation key: it was changed",
    )
    return VerifiedEvidence(
        quote=quote,
        simulated=trust_store.simulated,
        verified_at=now,
        collateral="not checked",
    )


def _check_root(root: bytes, trust_store: TrustStore) -> None:
    if root == trust_store.root_der:
        return
    found = sha256_hex(root)
    if found == SIMULATED_ROOT_SHA256:
        msg = (
            "the evidence is simulated: it proves nothing about where the model runs; "
            "accept it on purpose with allow_simulated for tests and development"
        )
        raise VerificationError(msg, code="simulated-evidence")
    if found == INTEL_ROOT_SHA256:
        msg = "the evidence is from hardware, but only simulated evidence is trusted"
        raise VerificationError(msg, code="hardware-evidence")
    msg = (
        f"the evidence chains to root {found[:12]}, expected "
        f"{sha256_hex(trust_store.root_der)[:12]}"
    )
    raise VerificationError(msg, code="untrusted-root")


def _check_qe_identity(qe: QeReport, trust_store: TrustStore) -> None:
    flags = int.from_bytes(qe.attributes[:8], "little") & _QE_FLAGS_MASK
    found = (qe.mrsigner, qe.product_id, flags)
    if found != (trust_store.qe_mrsigner, TD_QE_PRODUCT_ID, _QE_FLAGS):
        msg = (
            f"the quoting enclave is signed by {qe.mrsigner.hex()[:12]}, product "
            f"{qe.product_id}, flags {flags:#x}; expected "
            f"{trust_store.qe_mrsigner.hex()[:12]}, {TD_QE_PRODUCT_ID}, {_QE_FLAGS:#x}"
        )
        raise VerificationError(msg, code="qe-identity")


def _public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    x, y = int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big")
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as exc:
        msg = "the attestation key is not a point on P-256"
        raise VerificationError(msg, code="quote-signature") from exc


def _check_p256(
    public_key: ec.EllipticCurvePublicKey,
    signature: bytes,
    message: bytes,
    *,
    code: str,
    what: str,
) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        public_key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
    except InvalidSignature as exc:
        raise VerificationError(what, code=code) from exc
