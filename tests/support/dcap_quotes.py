"""Simulated quotes of every DCAP version, and collateral as dcap-qvl takes it."""

import hashlib
from dataclasses import replace

from privacy.tee.parse import Quote, SgxReport, TdReport15, TdxQuote, parse_quote
from privacy.tee.simulated_pki import make_root
from privacy.tee.simulator import public_point, sign_raw
from privacy.tee.trust import SIMULATED_SGX_QE_MRSIGNER

FORMS = ("sgx-v3", "sgx-v4", "sgx-v5", "tdx-v4", "tdx-v5", "tdx-v5-1.5")


def make_quote(attester, form, report_data, measurements):
    """Return a genuine quote of that form by a simulated platform."""
    quote = parse_quote(attester.quote(report_data, measurements))
    version, sgx = int(form[5]), form.startswith("sgx")
    header = replace(quote.header, version=version, tee_type=0 if sgx else 0x81)
    report, qe = quote.report, quote.qe_report
    if sgx:
        raw = bytearray(384)
        raw[48], raw[64:96], raw[320:384] = 5, bytes([9]) * 32, report_data
        report = SgxReport(bytes(raw))
        raw = bytearray(qe.raw)
        raw[128:160], raw[256:258] = SIMULATED_SGX_QE_MRSIGNER, b"\1\0"
        qe = SgxReport(bytes(raw))
    elif form.endswith("1.5"):
        fields = [getattr(report, name) for name in report.__dataclass_fields__]
        report = TdReport15(*fields, report.tee_tcb_svn, bytes(48))
    kind = Quote if sgx else TdxQuote
    unsigned = kind(
        header=header,
        report=report,
        signature=quote.signature,
        attestation_key=quote.attestation_key,
        qe_report=qe,
        qe_signature=quote.qe_signature,
        qe_auth=quote.qe_auth,
        certificates=quote.certificates,
    )
    return sign(attester, unsigned)


def sign(attester, quote):
    """Return the quote with its signatures made again, as bytes."""
    point = public_point(attester.attestation_key)
    binding = hashlib.sha256(point + quote.qe_auth).digest() + bytes(32)
    qe = SgxReport(quote.qe_report.raw[:320] + binding)
    return replace(
        quote,
        attestation_key=point,
        signature=sign_raw(attester.attestation_key, quote.signed_bytes),
        qe_report=qe,
        qe_signature=sign_raw(attester.pck_key, qe.raw),
    ).to_bytes()


def as_members(attester, collateral):
    """Return the members of `sgx_ql_qve_collateral_t` by name."""
    from privacy.tee.parse import _to_pem

    root, ca = _to_pem(make_root().der), _to_pem(attester.ca.der)
    signer = _to_pem(collateral.certificates[0]) + root
    (info,), (qe,) = collateral.tcb_infos, collateral.qe_identities
    return {
        "pck_crl_issuer_chain": (ca + root).decode(),
        "root_ca_crl": collateral.crls[0],
        "pck_crl": collateral.crls[1],
        "tcb_info_issuer_chain": signer.decode(),
        "tcb_info": info.body.decode(),
        "tcb_info_signature": info.signature,
        "qe_identity_issuer_chain": signer.decode(),
        "qe_identity": qe.body.decode(),
        "qe_identity_signature": qe.signature,
    }
