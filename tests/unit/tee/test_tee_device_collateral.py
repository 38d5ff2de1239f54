"""Collateral of devices with one odd thing in it: ignored, or refused with a type."""

import base64
import json
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA224, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import (
    OCSPCertStatus,
    OCSPResponderEncoding,
    OCSPResponseBuilder,
    OCSPResponseStatus,
)

from privacy.errors import FormatError, VerificationError
from privacy.tee.checks import Checklist
from privacy.tee.collateral import parse_collateral
from privacy.tee.nvidia import parse_nvidia_report, verify_nvidia_report
from privacy.tee.revocation import check_revocation
from privacy.tee.rim import MAX_RIM_BYTES, parse_rim
from privacy.tee.simulated_nvidia import SimulatedNvidia
from privacy.tee.simulated_x509 import issue


@pytest.fixture(scope="module")
def gpu():
    return SimulatedNvidia()


def response(certificate, issuer, key, now, digest=None, delegate=None):
    builder = OCSPResponseBuilder().add_response(
        cert=certificate,
        issuer=issuer,
        algorithm=SHA1(),
        cert_status=OCSPCertStatus.GOOD,
        this_update=now,
        next_update=now,
        revocation_time=None,
        revocation_reason=None,
    )
    builder = builder.responder_id(OCSPResponderEncoding.HASH, delegate or issuer)
    if delegate is not None:
        builder = builder.certificates([delegate])
    return builder.sign(key, digest or SHA384()).public_bytes(Encoding.DER)


def test_answers_that_are_none_or_oddly_signed_do_not_count(gpu, now):
    now = now.replace(microsecond=0)
    ca, root = gpu.ca.certificate, gpu.root.certificate
    good = response(ca, root, gpu.root.key, now)
    assert check_revocation([ca, root], (), now=now, ocsp=[good])
    refusal = OCSPResponseBuilder.build_unsuccessful(OCSPResponseStatus.UNAUTHORIZED)
    for odd in (
        refusal.public_bytes(Encoding.DER),
        response(ca, root, gpu.root.key, now, SHA224()),
    ):
        assert not check_revocation([ca, root], (), now=now, ocsp=[odd])


def test_answers_of_a_delegate_with_another_kind_of_key_do_not_count(gpu, now):
    now = now.replace(microsecond=0)
    key = rsa.generate_private_key(65537, 2048)
    usage = {"2.5.29.37": bytes.fromhex("300a06082b06010505070309")}
    delegate = issue("RSA", gpu.root, key=key, extensions=usage).certificate
    ca, root = gpu.ca.certificate, gpu.root.certificate
    odd = response(ca, root, key, now, delegate=delegate)
    assert not check_revocation([ca, root], (), now=now, ocsp=[odd])


def test_answers_under_issuers_with_other_keys_do_not_count(now):
    now = now.replace(microsecond=0)
    key = rsa.generate_private_key(65537, 2048)
    root = issue("RSA", key=key, ca=True)
    ca = issue("below", root, ca=True)
    odd = response(ca.certificate, root.certificate, key, now)
    chain = [ca.certificate, root.certificate]
    assert not check_revocation(chain, (), now=now, ocsp=[odd])


def test_rims_of_another_size_shape_or_encoding_are_refused(gpu, now):
    raw = gpu.collateral(now).rims[0]
    parse_rim(raw)
    unsigned = re.sub(rb"<([\w:]*)X509Certificate>[^<]*</\1X509Certificate>", b"", raw)
    assert unsigned != raw
    for odd in (unsigned, bytes(MAX_RIM_BYTES + 1), b"<a/>"):
        with pytest.raises(FormatError):
            parse_rim(odd)
    answer = {"rim": base64.b64encode(raw).decode()}
    assert parse_collateral(json.dumps(answer).encode(), what="rim").rims == (raw,)
    with pytest.raises(FormatError):
        parse_collateral(b'{"rim":"!"}', what="rim")


def test_a_leaf_that_names_no_firmware_is_refused_where_the_report_does(gpu, now):
    leaf = issue("GH100 SIMULATED", gpu.ca, key=gpu.leaf.key)
    assert isinstance(leaf.certificate, x509.Certificate)
    with pytest.raises(VerificationError) as caught:
        verify_nvidia_report(
            parse_nvidia_report(gpu.report(bytes(32))),
            gpu.trust_store,
            certificates=[leaf.der, gpu.ca.der, gpu.root.der],
            now=now,
            checks=Checklist(),
        )
    assert caught.value.code == "firmware-mismatch"
