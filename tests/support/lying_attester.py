"""A simulated platform that lies on command, and signs its lies properly."""

import hashlib
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from privacy.tee.parse import SgxReport, parse_tdx_quote
from privacy.tee.simulator import SimulatedTdxAttester, public_point, sign_raw


class LyingTdxAttester(SimulatedTdxAttester):
    """Overrides fields of the quote before they are signed.

    Args:
        header: Fields of the quote header to replace.
        report: Fields of the TD report to replace.
        qe: Byte strings to write into the QE report, by offset.
        chain: Certificates (DER) and PCK key to use instead.
    """

    def __init__(self, *, header=None, report=None, qe=None, chain=None, pck_key=None):
        super().__init__()
        self._header, self._report, self._qe = header or {}, report or {}, qe or {}
        self.certificates = chain or self.certificates
        self.pck_key = pck_key or self.pck_key

    def header(self):
        return replace(super().header(), **self._header)

    def td_report(self, report_data, measurements):
        return replace(super().td_report(report_data, measurements), **self._report)

    def qe_report(self, report_data):
        raw = bytearray(super().qe_report(report_data).raw)
        for offset, value in self._qe.items():
            raw[offset : offset + len(value)] = value
        return SgxReport(bytes(raw))


def with_foreign_attestation_key(raw: bytes) -> bytes:
    """Return the quote signed by a key that its quoting enclave does not vouch for."""
    quote = parse_tdx_quote(raw)
    key = ec.generate_private_key(ec.SECP256R1())
    return replace(
        quote,
        attestation_key=public_point(key),
        signature=sign_raw(key, quote.signed_bytes),
    ).to_bytes()


def vouch_for(attester: SimulatedTdxAttester, raw: bytes, point: bytes) -> bytes:
    """Return the quote with any bytes as attestation key, properly vouched for."""
    quote = parse_tdx_quote(raw)
    binding = hashlib.sha256(point + quote.qe_auth).digest() + bytes(32)
    qe = attester.qe_report(binding)
    return replace(
        quote,
        attestation_key=point,
        qe_report=qe,
        qe_signature=sign_raw(attester.pck_key, qe.raw),
    ).to_bytes()
