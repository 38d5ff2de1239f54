"""The certificate chain of a quote: PCK leaf, PCK CA, pinned root. Pure.

Certificates are looked into from the root down, each only after its issuer's
signature on it was found good. Revocation lists are not consulted yet.
"""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from privacy.errors import VerificationError

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_NAMES = ("root CA", "PCK CA", "PCK certificate")
_UNDERSTOOD = {x509.BasicConstraints.oid, x509.KeyUsage.oid}


def verify_chain(
    certificates: Sequence[bytes], *, root_der: bytes, now: datetime
) -> ec.EllipticCurvePublicKey:
    """Return the PCK leaf's public key after checking the chain above it.

    Args:
        certificates: DER of leaf, CA and root, in this order.
        root_der: The pinned root; the chain's own must equal it.
        now: When every certificate must be valid.

    Raises:
        VerificationError: The chain does not hold.
    """
    if certificates[-1] != root_der:
        msg = "the certificate chain does not end in the pinned root"
        raise VerificationError(msg, code="untrusted-root")
    issuer = _load(root_der, _NAMES[0])
    for depth, der in enumerate(reversed(certificates)):
        name = _NAMES[depth]
        certificate = _load(der, name)
        _check_issued(certificate, issuer, name)
        _check_validity(certificate, now, name)
        below = len(certificates) - 2 - depth  # CAs under this one; -1 for the leaf
        _check_role(certificate, below, name)
        issuer = certificate
    return _p256(issuer, _NAMES[-1])


def _load(der: bytes, name: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as exc:
        msg = f"the {name} is not an X.509 certificate"
        raise VerificationError(msg, code="certificate-malformed") from exc


def _check_issued(child: x509.Certificate, issuer: x509.Certificate, name: str) -> None:
    try:
        child.verify_directly_issued_by(issuer)
        algorithm = child.signature_hash_algorithm
    except (ValueError, TypeError, InvalidSignature, x509.InvalidVersion) as exc:
        msg = f"the {name} was not signed by its issuer"
        raise VerificationError(msg, code="certificate-signature") from exc
    if not isinstance(algorithm, SHA256):
        msg = f"the {name} is not signed with ECDSA and SHA-256"
        raise VerificationError(msg, code="certificate-signature")
    _p256(issuer, f"issuer of the {name}")


def _check_validity(certificate: x509.Certificate, now: datetime, name: str) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= now <= end:
        msg = f"the {name} is valid from {start} to {end}, not at {now}"
        raise VerificationError(msg, code="certificate-expired")


def _check_role(certificate: x509.Certificate, below: int, name: str) -> None:
    """Check constraints, usage and extensions; `below` counts the CAs underneath."""
    try:
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as exc:
        msg = f"the {name} lacks basic constraints or key usage, or they are malformed"
        raise VerificationError(msg, code="certificate-role") from exc
    is_ca = below >= 0
    right = basic.ca == is_ca and (
        usage.key_cert_sign if is_ca else usage.digital_signature
    )
    deep_enough = basic.path_length is None or basic.path_length >= below
    known = all(e.oid in _UNDERSTOOD for e in extensions if e.critical)
    pck = is_ca or any(e.oid == SGX_EXTENSION for e in extensions)
    if not (right and deep_enough and known and pck):
        msg = f"the {name} may not be used as one (constraints, usage or extensions)"
        raise VerificationError(msg, code="certificate-role")


def _p256(certificate: x509.Certificate, name: str) -> ec.EllipticCurvePublicKey:
    try:
        public_key = certificate.public_key()
    except (ValueError, TypeError) as exc:
        msg = f"the key of the {name} is not usable"
        raise VerificationError(msg, code="certificate-malformed") from exc
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        msg = f"the key of the {name} is not on P-256"
        raise VerificationError(msg, code="certificate-malformed")
    return public_key
