"""Certificates as such: ECDSA P-256, extensions as RFC 5280 has them.

Nothing is read or written here; time is an argument.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.errors import FormatError

KINDS = ("gateway", "node", "client")
"""Servers that are clients too (of peers, of other nodes), and clients only."""
_EARLIER = timedelta(minutes=5)  # clocks of other machines may be behind
_HOST = re.compile(r"(?!.*\.\.)[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_BOTH = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    """Return a new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """Return a private key as PEM (PKCS #8), unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_authority(
    key: Key, name: str, *, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Return the certificate that an authority gives itself."""
    # Two authorities of one name must not be mistaken for each other.
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()
    subject = _subject(name, x509.NameAttribute(NameOID.SERIAL_NUMBER, own[:16]))
    usage = _usage(signs_certificates=True)
    return (
        _builder(subject, subject, key, now=now, until=now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(_authority_id(key), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_leaf(  # noqa: PLR0913 - what a certificate says
    key: Key,
    name: str,
    *,
    kind: str,
    hosts: Sequence[str],
    authority: x509.Certificate,
    authority_key: Key,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """Return a certificate; it does not outlive its authority.

    Args:
        key: The subject's.
        name: The subject's, within its authority.
        kind: One of `KINDS`.
        hosts: DNS names and addresses it serves under; none for a client.
        authority: Who signs.
        authority_key: Its key.
        now: The time.
        lifetime: How long it is valid.

    Raises:
        FormatError: A host is neither a name nor an address, or is missing.
    """
    if kind not in KINDS:
        msg = f"kind {kind[:20]!r} is not one of {', '.join(KINDS)}"
        raise FormatError(msg, code="usage")
    if (kind == "client") == bool(hosts):
        msg = "a client has no host names, a gateway or node at least one (--host)"
        raise FormatError(msg, code="usage")
    until = min(now + lifetime, authority.not_valid_after_utc)
    urn = x509.UniformResourceIdentifier(f"urn:privacy-compute:{kind}:{name}")
    uses = _BOTH[1:] if kind == "client" else _BOTH
    alternatives = [urn, *map(_general_name, hosts)]
    return (
        _builder(_subject(name), authority.subject, key, now=now, until=until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(_authority_id(authority_key), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def make_revocations(
    revoked: Iterable[tuple[int, datetime]],
    *,
    authority: x509.Certificate,
    authority_key: Key,
    number: int,
    now: datetime,
) -> x509.CertificateRevocationList:
    """Return a revocation list that lasts as long as its authority.

    Args:
        revoked: Serial numbers, and since when.
        authority: Whose certificates they are.
        authority_key: Its key.
        number: Larger than that of any list before.
        now: The time.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(_seconds(now - _EARLIER))
        .next_update(authority.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_id(authority_key), critical=False)
    )
    for serial, at in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(_seconds(at))
            .build()
        )
    return builder.sign(authority_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, *, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    public_key = key.public_key()
    subject_id = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_seconds(now - _EARLIER))
        .not_valid_after(_seconds(until))
        .add_extension(subject_id, critical=False)
    )


def _seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)  # certificates know no smaller part


def _subject(name: str, *more: x509.NameAttribute[str]) -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Privacy Compute")
    return x509.Name(
        [organization, x509.NameAttribute(NameOID.COMMON_NAME, name), *more]
    )


def _authority_id(key: Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _HOST.fullmatch(host):
            msg = f"{host[:80]!r} is neither a DNS name (lowercase) nor an IP address"
            raise FormatError(msg, code="bad-host") from None
        return x509.DNSName(host)
