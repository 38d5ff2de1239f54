"""Whether certificates of a checked chain were revoked, by CRLs that were given. Pure.

A CRL or an OCSP response counts if the issuer of the certificate signed it, it is
current, and it holds no critical extension, which could narrow what it is about. For
OCSP the issuer may have delegated that to a certificate of its own. Others are ignored:
they can neither clear a certificate nor accuse it.

Source: RFC 5280, section 6.3, for complete CRLs of the issuer itself; RFC 6960, section
4.2.2.2.
"""

import contextlib
import functools
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.ocsp import (
    OCSPCertStatus,
    OCSPResponse,
    OCSPResponseStatus,
    OCSPSingleResponse,
    load_der_ocsp_response,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from privacy.errors import VerificationError

_REMEMBERED = 32  # lists, which may have megabytes
_DIGESTS = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNUSABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def check_revocation(
    chain: Sequence[x509.Certificate],
    crls: Iterable[bytes],
    ocsp: Iterable[bytes] = (),
    *,
    now: datetime,
) -> bool:
    """Return whether every certificate below the root is known not to be revoked.

    Args:
        chain: Checked by `verify_chain`; leaf first, root last.
        crls: DER.
        ocsp: Responses, DER.
        now: When lists and responses must be current.

    Raises:
        VerificationError: One of the certificates was revoked.
    """
    lists = tuple(crls)
    responses = [load_der_ocsp_response(der) for der in ocsp]
    complete = True
    for certificate, issuer in pairwise(chain):
        counting = [_list(der) for der in lists if _counts(der, issuer, now)]
        for crl in counting:
            entry = crl.get_revoked_certificate_by_serial_number(
                certificate.serial_number
            )
            if entry is not None:
                _refuse(certificate, entry.revocation_date_utc)
        answers = _answers(responses, certificate, issuer, now)
        for answer in answers:
            if answer.certificate_status == OCSPCertStatus.REVOKED:
                _refuse(certificate, answer.revocation_time_utc)
        good = [a for a in answers if a.certificate_status == OCSPCertStatus.GOOD]
        complete &= bool(counting or good)
    return complete


def _refuse(certificate: x509.Certificate, when: datetime | None) -> NoReturn:
    name, date = certificate.subject.rfc4514_string(), when.isoformat() if when else "?"
    msg = f"the certificate {name} was revoked at {date}"
    raise VerificationError(msg, code="certificate-revoked")


def _answers(
    responses: Iterable[OCSPResponse],
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    now: datetime,
) -> list[OCSPSingleResponse]:
    """Return what counting responses say of the certificate."""
    found = []
    for response in responses:
        with contextlib.suppress(*_UNUSABLE):
            about = [
                one
                for one in _singles(response)
                if one.serial_number == certificate.serial_number
                and _names_issuer(one, issuer)
                and one.next_update_utc is not None
                and one.this_update_utc <= now <= one.next_update_utc
            ]
            if about and _is_signed(response, issuer, now):
                found += about
    return found


def _singles(response: OCSPResponse) -> list[OCSPSingleResponse]:
    if response.response_status != OCSPResponseStatus.SUCCESSFUL:
        return []
    narrowed = any(extension.critical for extension in response.extensions)
    return [] if narrowed else list(response.responses)


def _names_issuer(one: OCSPSingleResponse, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    form = PublicFormat.UncompressedPoint
    found = []
    for raw in (issuer.subject.public_bytes(), key.public_bytes(Encoding.X962, form)):
        digest = hashes.Hash(one.hash_algorithm)
        digest.update(raw)
        found.append(digest.finalize())
    return found == [one.issuer_name_hash, one.issuer_key_hash]


def _is_signed(response: OCSPResponse, issuer: x509.Certificate, now: datetime) -> bool:
    """Whether the issuer signed, or a certificate it issued for signing responses."""
    signers = [issuer]
    for delegate in response.certificates:
        with contextlib.suppress(*_UNUSABLE, InvalidSignature):
            delegate.verify_directly_issued_by(issuer)
            usage = delegate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
            start, end = delegate.not_valid_before_utc, delegate.not_valid_after_utc
            if ExtendedKeyUsageOID.OCSP_SIGNING in usage.value and start <= now <= end:
                signers.append(delegate)
    return any(_signed_by(response, signer) for signer in signers)


def _signed_by(response: OCSPResponse, signer: x509.Certificate) -> bool:
    digest = response.signature_hash_algorithm
    if not isinstance(digest, _DIGESTS):
        return False
    try:
        _check_response(
            response.tbs_response_bytes, response.signature, type(digest), signer
        )
    except InvalidSignature:
        return False
    return True


@functools.lru_cache(maxsize=_REMEMBERED)
def _check_response(
    signed: bytes,
    signature: bytes,
    digest: type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512],
    signer: x509.Certificate,
) -> None:
    """Check a signature; one that is good is remembered, time cannot change it."""
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidSignature
    key.verify(signature, signed, ec.ECDSA(digest()))


def _counts(der: bytes, issuer: x509.Certificate, now: datetime) -> bool:
    crl = _list(der)
    try:
        end = crl.next_update_utc
        if end is None or not crl.last_update_utc <= now <= end:
            return False
        return crl.issuer == issuer.subject and _is_whole_and_by(der, issuer)
    except _UNUSABLE:
        return False


@functools.lru_cache(maxsize=_REMEMBERED)
def _list(der: bytes) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(der)


@functools.lru_cache(maxsize=_REMEMBERED)  # which remembers no exception
def _is_whole_and_by(der: bytes, issuer: x509.Certificate) -> bool:
    crl = _list(der)
    narrowed = any(extension.critical for extension in crl.extensions)
    return not narrowed and crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
