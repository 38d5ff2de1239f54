"""What collateral is about and how long it counts; nothing is verified. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography import x509
from cryptography.x509.ocsp import OCSPResponseStatus, load_der_ocsp_response
from cryptography.x509.oid import NameOID

from privacy.encoding import Json, parse_object, sha256_hex
from privacy.errors import FormatError
from privacy.tee.chain import load_certificate
from privacy.tee.collateral import Collateral, SignedJson
from privacy.tee.rim import parse_rim

Kind = Literal["certificate", "crl", "tcb-info", "qe-identity", "ocsp", "rim"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of collateral.

    Attributes:
        about: Subject of a certificate, issuer of a CRL, platform of TCB info, name of
            a quoting enclave, serial number (OCSP), product and version (RIM).
        starts: When it was issued.
        ends: Until when it counts; None for ever.
        sha256: Of the signed bytes.
    """

    kind: Kind
    about: str
    starts: datetime
    ends: datetime | None
    sha256: str

    def counts(self, now: datetime) -> bool:
        """Return whether it counts at that time."""
        return self.starts <= now and (self.ends is None or now <= self.ends)

    def as_dict(self, now: datetime) -> Json:
        """Return the entry JSON-ready."""
        return {
            "kind": self.kind,
            "about": self.about,
            "starts": self.starts.isoformat(),
            "ends": None if self.ends is None else self.ends.isoformat(),
            "counts": self.counts(now),
            "sha256": self.sha256,
        }


def inventory(collateral: Collateral) -> list[Entry]:
    """Return a line for every piece of collateral.

    Raises:
        FormatError: A piece lacks what its kind must have.
    """
    try:
        return list(_entries(collateral))
    except (ValueError, KeyError, TypeError) as exc:
        msg = f"a piece of collateral has another shape ({type(exc).__name__})"
        raise FormatError(msg, code="unsupported-collateral") from exc


def common_name(name: x509.Name) -> str:
    """Return the common name, or the whole name if it has none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _entries(collateral: Collateral) -> Iterator[Entry]:
    for der in collateral.certificates:
        certificate = load_certificate(der, "certificate")
        yield Entry(
            "certificate",
            common_name(certificate.subject),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            sha256_hex(der),
        )
    for der in collateral.crls:
        crl = x509.load_der_x509_crl(der)
        name, starts = common_name(crl.issuer), crl.last_update_utc
        yield Entry("crl", name, starts, crl.next_update_utc, sha256_hex(der))
    for signed in collateral.tcb_infos:
        value = _parsed(signed)
        about = f"{value['id']} {value['fmspc']}".upper()
        yield Entry("tcb-info", about, *_dates(value), sha256_hex(signed.body))
    for signed in collateral.qe_identities:
        value = _parsed(signed)
        about = str(value["id"])
        yield Entry("qe-identity", about, *_dates(value), sha256_hex(signed.body))
    yield from _of_devices(collateral)


def _of_devices(collateral: Collateral) -> Iterator[Entry]:
    for der in collateral.ocsp:
        response = load_der_ocsp_response(der)
        if response.response_status != OCSPResponseStatus.SUCCESSFUL:
            msg = f"the OCSP responder says {response.response_status.name}"
            raise FormatError(msg, code="unsupported-collateral")
        for one in response.responses:
            about, starts = f"{one.serial_number:x}", one.this_update_utc
            yield Entry("ocsp", about, starts, one.next_update_utc, sha256_hex(der))
    for raw in collateral.rims:
        rim = parse_rim(raw)
        signer = load_certificate(rim.signed.certificates[0], "certificate")
        starts, ends = signer.not_valid_before_utc, signer.not_valid_after_utc
        yield Entry("rim", rim.about, starts, ends, sha256_hex(raw))


def _parsed(signed: SignedJson) -> Json:
    return parse_object(signed.body, what="statement in the collateral")


def _dates(value: Json) -> tuple[datetime, datetime]:
    dates = [datetime.fromisoformat(value[n]) for n in ("issueDate", "nextUpdate")]
    if any(date.tzinfo is None for date in dates):
        raise ValueError("a date without a time zone")
    return dates[0], dates[1]
