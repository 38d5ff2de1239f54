"""Whether certificates of a checked chain were revoked, by CRLs that were given. Pure.

A CRL counts if the issuer of the certificate signed it, it is current, and it holds no
critical extension, which could narrow what it is about. Others are ignored: they can
neither clear a certificate nor accuse it.

Source: RFC 5280, section 6.3, for complete CRLs of the issuer itself.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from privacy.errors import VerificationError


def check_revocation(
    chain: Sequence[x509.Certificate], crls: Iterable[bytes], *, now: datetime
) -> bool:
    """Return whether current CRLs speak for every certificate below the root.

    Args:
        chain: Checked by `verify_chain`; leaf first, root last.
        crls: DER.
        now: When a CRL must be current.

    Raises:
        VerificationError: One of the certificates was revoked.
    """
    lists = [x509.load_der_x509_crl(der) for der in crls]
    complete = True
    for certificate, issuer in pairwise(chain):
        counting = [crl for crl in lists if _counts(crl, issuer, now)]
        for crl in counting:
            entry = crl.get_revoked_certificate_by_serial_number(
                certificate.serial_number
            )
            if entry is not None:
                name = certificate.subject.rfc4514_string()
                when = entry.revocation_date_utc.isoformat()
                msg = f"the certificate {name} was revoked at {when}"
                raise VerificationError(msg, code="certificate-revoked")
        complete &= bool(counting)
    return complete


def _counts(
    crl: x509.CertificateRevocationList, issuer: x509.Certificate, now: datetime
) -> bool:
    try:
        end = crl.next_update_utc
        if end is None or not crl.last_update_utc <= now <= end:
            return False
        if crl.issuer != issuer.subject:
            return False
        narrowed = any(extension.critical for extension in crl.extensions)
        return not narrowed and crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
