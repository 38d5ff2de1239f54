"""NVIDIA's real reference measurements: genuine, until their signers' time is over."""

from datetime import datetime

import pytest

from privacy.errors import PrivacyError, VerificationError
from privacy.tee.attest import attest
from privacy.tee.checks import Checklist
from privacy.tee.collateral import FileCollateral
from privacy.tee.policy import Relaxations
from privacy.tee.rim import parse_rim, verify_rim
from privacy.tee.trust import hardware_trust_store

WHILE_VALID = datetime.fromisoformat("2025-06-01T00:00:00Z")
AFTER = datetime.fromisoformat("2025-09-01T00:00:00Z")
PRODUCTION = "1010_0200_882_96005E0001_PROD"
RIMS = {
    PRODUCTION: "GH100 96.00.5E.00.01",
    "1010_0200_882_96005E0001_test_no_gpu": "GH100 96.00.5E.00.01",
    "g520_0200_885_9600740001_PROD": "GH100 96.00.74.00.01",
    "Driver_RIM_test_no_gpu": "GH100 545.00",
}
REPORT = "nvidia-attestation-sdk/gpu/hopperAttestationReport.txt"
CHAIN = "nvidia-attestation-sdk/gpu/hopperCertChain.txt"


def read(vectors, name):
    return (vectors / "nvtrust" / f"{name}.swidtag").read_bytes()


@pytest.mark.parametrize("name", RIMS)
def test_a_real_rim_verifies_while_its_signer_is_valid(vectors, name):
    rim = parse_rim(read(vectors, name))
    assert rim.about == RIMS[name]
    verify_rim(rim, hardware_trust_store(), now=WHILE_VALID)
    with pytest.raises(VerificationError) as caught:
        verify_rim(rim, hardware_trust_store(), now=AFTER)
    assert caught.value.code == "certificate-expired"


@pytest.mark.parametrize("name", RIMS)
def test_a_real_rim_with_another_value_is_refused(vectors, name):
    raw = read(vectors, name)
    at = raw.index(b'active="True"')
    at = raw.index(b'Hash0="', at) + 7
    changed = raw[:at] + (b"1" if raw[at : at + 1] == b"0" else b"0") + raw[at + 1 :]
    with pytest.raises(VerificationError) as caught:
        verify_rim(parse_rim(changed), hardware_trust_store(), now=WHILE_VALID)
    assert caught.value.code == "document-changed"


def verdict(vectors, *rims):
    paths = [vectors / "nvtrust" / f"{name}.swidtag" for name in rims]
    return attest(
        (vectors / REPORT).read_bytes(),
        trust_store=hardware_trust_store(),
        collateral=FileCollateral((vectors / CHAIN, *paths)).collateral(),
        now=WHILE_VALID,
        checks=Checklist(),
        policy=Relaxations(allow_unchecked_collateral=True),
    )


def test_a_real_gpu_shows_the_values_of_its_vbios(vectors):
    lines = {c.name: c for c in verdict(vectors, PRODUCTION).checks}
    assert lines["vbios-rim"].ok
    assert lines["reference-measurements"].ok
    assert "driver-rim" not in lines


def test_a_real_gpu_does_not_show_the_values_of_another_vbios(vectors):
    with pytest.raises(PrivacyError) as caught:
        verdict(vectors, "1010_0200_882_96005E0001_test_no_gpu")
    assert caught.value.code == "reference-mismatch"
    assert "m2, m3, m4, m10 " in caught.value.message


def test_rims_of_other_versions_say_nothing_of_a_real_gpu(vectors):
    claims = verdict(vectors, "Driver_RIM_test_no_gpu").claims[0]
    assert claims.unchecked == ("revocation", "reference measurements")
