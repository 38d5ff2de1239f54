"""Certificate chains, from a pinned root down to the key that signed evidence. Pure.

Certificates are looked into from the root down, each only after its issuer's
signature on it was found good. Revocation: see `privacy.tee.revocation`.

Remembered for the next evidence, since time cannot change it: certificates taken apart,
and which one signed which. Everything else is decided each time.
"""

import functools
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.utils import CryptographyDeprecationWarning

from privacy.encoding import sha256_hex
from privacy.errors import FormatError, VerificationError

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_UNDERSTOOD = {x509.BasicConstraints.oid, x509.KeyUsage.oid}
_AMD_KEY_BITS = 4096
_REMEMBERED = 128
_UNUSABLE = (ValueError, TypeError, UnsupportedAlgorithm)  # what odd keys raise


@dataclass(frozen=True, slots=True)
class Rules:
    """What one vendor's chains look like.

    Attributes:
        names: What to call each certificate, root first; longer chains repeat the
            one before the last.
        curve: Of the leaf's key, and of all others unless `rsa`.
        digest: That every signature is over.
        rsa: Issuers have RSA keys of 4096 bits.
        leaf_extension: That a leaf must have.
        bare_leaf: Leaves of this vendor may lack basic constraints and key usage.
    """

    names: tuple[str, str, str]
    curve: type[ec.EllipticCurve]
    digest: type[hashes.HashAlgorithm]
    rsa: bool = False
    leaf_extension: x509.ObjectIdentifier | None = None
    bare_leaf: bool = False


INTEL = Rules(
    names=("root CA", "PCK CA", "PCK certificate"),
    curve=ec.SECP256R1,
    digest=hashes.SHA256,
    leaf_extension=SGX_EXTENSION,
)


def verify_chain(
    certificates: Sequence[bytes],
    *,
    roots: Collection[bytes],
    rules: Rules,
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """Return the certificates, leaf first, after checking the whole chain.

    Args:
        certificates: DER, from the leaf to the root.
        roots: The pinned ones; the chain's own must be among them.
        rules: Of the vendor.
        now: When every certificate must be valid, with a time zone.

    Raises:
        VerificationError: The chain does not hold.
    """
    if now.tzinfo is None:
        raise FormatError("the time to verify at has no time zone: give UTC")
    if certificates[-1] not in roots:
        msg = (
            "the certificate chain does not end in a pinned root: it ends in "
            f"{sha256_hex(certificates[-1])[:12]}"
        )
        raise VerificationError(msg, code="untrusted-root")
    if len(set(certificates)) < len(certificates):
        msg = "the certificate chain holds a certificate twice"
        raise VerificationError(msg, code="certificate-role")
    checked: list[x509.Certificate] = []
    for depth, der in enumerate(reversed(certificates)):
        below = len(certificates) - 2 - depth  # CAs under this one; -1 for the leaf
        name = rules.names[0 if depth == 0 else 2 if below < 0 else 1]
        certificate = load_certificate(der, name)
        _check_issued(certificate, checked[-1] if checked else certificate, name, rules)
        _check_validity(certificate, now, name)
        _check_role(certificate, below, name, rules)
        _check_key(certificate, name, rules, is_leaf=below < 0)
        checked.append(certificate)
    return tuple(reversed(checked))


@functools.lru_cache(maxsize=_REMEMBERED)
def load_certificate(der: bytes, name: str) -> x509.Certificate:
    """Return a certificate; real ones with a serial number of zero are let through."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as exc:
        msg = f"the {name} is not an X.509 certificate"
        raise VerificationError(msg, code="certificate-malformed") from exc


def extension_value(
    certificate: x509.Certificate, oid: x509.ObjectIdentifier
) -> bytes | None:
    """Return the DER of a vendor's extension, None if there is none."""
    for extension in certificate.extensions:
        value = extension.value
        if extension.oid == oid and isinstance(value, x509.UnrecognizedExtension):
            return value.value
    return None


def names(certificate: x509.Certificate) -> tuple[x509.Name, x509.Name] | None:
    """Return subject and issuer of a certificate nobody checked; None if unreadable."""
    try:
        return certificate.subject, certificate.issuer
    except ValueError:
        return None


def public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Return the key of a leaf that `verify_chain` let through."""
    try:
        key = certificate.public_key()
    except _UNUSABLE:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        msg = "the key of the leaf is not an elliptic one"
        raise VerificationError(msg, code="certificate-malformed")
    return key


@functools.lru_cache(maxsize=_REMEMBERED)  # which remembers no exception
def _check_issued(
    child: x509.Certificate, issuer: x509.Certificate, name: str, rules: Rules
) -> None:
    try:
        child.verify_directly_issued_by(issuer)
        algorithm = child.signature_hash_algorithm
    except (*_UNUSABLE, InvalidSignature, x509.InvalidVersion) as exc:
        msg = f"the {name} was not signed by its issuer"
        raise VerificationError(msg, code="certificate-signature") from exc
    if not isinstance(algorithm, rules.digest):
        msg = f"the {name} is not signed with {rules.digest.name}"
        raise VerificationError(msg, code="certificate-signature")


def _check_validity(certificate: x509.Certificate, now: datetime, name: str) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= now <= end:
        msg = f"the {name} is valid from {start} to {end}, not at {now}"
        raise VerificationError(msg, code="certificate-expired")


def _check_role(
    certificate: x509.Certificate, below: int, name: str, rules: Rules
) -> None:
    """Check constraints, usage and extensions; `below` counts the CAs underneath."""
    is_ca = below >= 0
    try:
        extensions = certificate.extensions
        right = all(
            _is_right(extensions, is_ca=is_ca, below=below, may_lack=may_lack, of=of)
            for of in (x509.BasicConstraints, x509.KeyUsage)
            for may_lack in [rules.bare_leaf and not is_ca]
        )
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as exc:
        msg = f"the {name} lacks basic constraints or key usage, or they are malformed"
        raise VerificationError(msg, code="certificate-role") from exc
    known = all(e.oid in _UNDERSTOOD for e in extensions if e.critical)
    wanted = rules.leaf_extension
    special = is_ca or wanted is None or any(e.oid == wanted for e in extensions)
    if not (right and known and special):
        msg = f"the {name} may not be used as one (constraints, usage or extensions)"
        raise VerificationError(msg, code="certificate-role")


def _is_right(
    extensions: x509.Extensions,
    *,
    is_ca: bool,
    below: int,
    may_lack: bool,
    of: type[x509.BasicConstraints | x509.KeyUsage],
) -> bool:
    try:
        value = extensions.get_extension_for_class(of).value
    except x509.ExtensionNotFound:
        if may_lack:
            return True
        raise
    if isinstance(value, x509.KeyUsage):
        return value.key_cert_sign if is_ca else value.digital_signature
    deep_enough = value.path_length is None or value.path_length >= below
    return value.ca == is_ca and deep_enough


def _check_key(
    certificate: x509.Certificate, name: str, rules: Rules, *, is_leaf: bool
) -> None:
    try:
        key = certificate.public_key()
    except _UNUSABLE as exc:
        msg = f"the key of the {name} is not usable"
        raise VerificationError(msg, code="certificate-malformed") from exc
    if rules.rsa and not is_leaf:
        right = isinstance(key, rsa.RSAPublicKey) and key.key_size == _AMD_KEY_BITS
    else:
        right = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
            key.curve, rules.curve
        )
    if not right:
        wanted = "RSA-4096" if rules.rsa and not is_leaf else rules.curve.name
        msg = f"the key of the {name} is not one of {wanted}"
        raise VerificationError(msg, code="certificate-malformed")
