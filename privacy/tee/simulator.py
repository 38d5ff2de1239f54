"""A simulated Intel platform: quotes in the real format under the simulated root.

The same verifier checks these quotes and real ones. Going to hardware replaces this
attester and the trust store, and not one line of the verifier.
"""

import functools
import hashlib
import secrets
import struct

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from privacy.tee.parse import (
    KEY_TYPE_P256,
    QE_VENDOR_ID,
    QUOTE_VERSION,
    TEE_TYPE_TDX,
    Measurements,
    QuoteHeader,
    SgxReport,
    TdReport,
    TdxQuote,
)
from privacy.tee.simulated_pki import known_ca, make_leaf, make_root
from privacy.tee.trust import SIMULATED_QE_MRSIGNER, TD_QE_PRODUCT_ID

_QE_REPORT = struct.Struct("<16sI28s16s32s32s32s96sHH60s64s")
_SEPT_VE_DISABLE = bytes.fromhex("0000001000000000")
_XFAM = bytes.fromhex("e702060000000000")


class SimulatedTdxAttester:
    """Makes TDX quotes that anyone could make: see `simulated_pki` for why."""

    format = "tdx-v4"
    simulated = True

    def __init__(self) -> None:
        """Issue a fresh PCK certificate and a fresh attestation key."""
        root, self.ca = make_root(), known_ca()
        leaf = make_leaf(self.ca)
        self.certificates = (leaf.der, self.ca.der, root.der)
        self.pck_key = leaf.key
        self.attestation_key = ec.generate_private_key(ec.SECP256R1())

    def quote(self, report_data: bytes, measurements: Measurements) -> bytes:
        """Return a quote over 64 bytes of report data."""
        header, report = self.header(), self.td_report(report_data, measurements)
        point, auth, qe, qe_signature = self._certified
        return TdxQuote(
            header=header,
            report=report,
            signature=sign_raw(
                self.attestation_key, header.to_bytes() + report.to_bytes()
            ),
            attestation_key=point,
            qe_report=qe,
            qe_signature=qe_signature,
            qe_auth=auth,
            certificates=self.certificates,
        ).to_bytes()

    @functools.cached_property
    def _certified(self) -> tuple[bytes, bytes, SgxReport, bytes]:
        """Attestation key, what was hashed with it, QE report and its signature.

        A quoting enclave has its key certified once, not for each quote.
        """
        point, auth = public_point(self.attestation_key), secrets.token_bytes(32)
        qe = self.qe_report(hashlib.sha256(point + auth).digest() + bytes(32))
        return point, auth, qe, sign_raw(self.pck_key, qe.raw)

    def header(self) -> QuoteHeader:
        """Return a header with random user data, as real platforms write."""
        return QuoteHeader(
            version=QUOTE_VERSION,
            key_type=KEY_TYPE_P256,
            tee_type=TEE_TYPE_TDX,
            qe_svn=0,
            pce_svn=0,
            qe_vendor=QE_VENDOR_ID,
            user_data=secrets.token_bytes(16) + bytes(4),
        )

    def td_report(self, report_data: bytes, measurements: Measurements) -> TdReport:
        """Return the report of a production trust domain."""
        return TdReport(
            tee_tcb_svn=bytes([6, 1, 6] + [0] * 13),
            mrseam=bytes(48),
            mrsignerseam=bytes(48),
            seam_attributes=bytes(8),
            td_attributes=_SEPT_VE_DISABLE,
            xfam=_XFAM,
            mrconfigid=bytes(48),
            mrowner=bytes(48),
            mrownerconfig=bytes(48),
            report_data=report_data,
            mrtd=measurements.mrtd,
            rtmr0=measurements.rtmr0,
            rtmr1=measurements.rtmr1,
            rtmr2=measurements.rtmr2,
            rtmr3=measurements.rtmr3,
        )

    def qe_report(self, report_data: bytes) -> SgxReport:
        """Return the report of a production quoting enclave."""
        return SgxReport(
            _QE_REPORT.pack(
                bytes([3, 3, 2, 2, 4, 1, 0, 5]),  # CPUSVN
                0,  # MISCSELECT
                b"",
                bytes([0x11]) + bytes(7) + b"\xe7" + bytes(7),  # INIT, PROVISION_KEY
                hashlib.sha256(b"privacy-compute/simulated-intel/td-qe").digest(),
                b"",
                SIMULATED_QE_MRSIGNER,
                b"",
                TD_QE_PRODUCT_ID,
                6,  # ISVSVN
                b"",
                report_data,
            )
        )


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a P-256 public key as x and y, 64 bytes."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return an ECDSA signature as r and s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
