"""Devices by NVIDIA's reference measurements and revocation, honest and not."""

from dataclasses import replace
from datetime import timedelta

import pytest

from privacy.errors import PrivacyError
from privacy.tee.attest import attest
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral
from privacy.tee.policy import Relaxations
from privacy.tee.simulated_nvidia import (
    DRIVER,
    VBIOS,
    RimDefects,
    SimulatedNvidia,
    ocsp_response,
)
from privacy.tee.simulated_x509 import issue

NONCE = bytes(range(32))
OCSP_SIGNING = {"2.5.29.37": bytes.fromhex("300a06082b06010505070309")}


@pytest.fixture(scope="module")
def gpu():
    return SimulatedNvidia()


def check(device, collateral, now, report=None, **options):
    return attest(
        report or device.report(NONCE),
        trust_store=device.trust_store,
        collateral=collateral,
        now=now,
        checks=Checklist(),
        policy=Relaxations(**options),
    ).claims[0]


def refused(*arguments, **options):
    with pytest.raises(PrivacyError) as caught:
        check(*arguments, **options)
    return caught.value.code, caught.value.exit_code


@pytest.mark.parametrize("chip", ["GH100", "GB100", "LS10"])
def test_devices_whose_collateral_is_there_need_no_relaxation(chip, now):
    device = SimulatedNvidia(chip=chip)
    claims = check(device, device.collateral(now), now)
    assert (claims.product, claims.unchecked) == (chip, ())


@pytest.mark.parametrize(
    ("without", "unchecked"),
    [
        ("ocsp", ("revocation",)),
        ("crls", ("revocation",)),
        ("rims", ("reference measurements",)),
    ],
)
def test_what_is_missing_is_said(gpu, now, without, unchecked):
    collateral = replace(gpu.collateral(now), **{without: ()})
    assert refused(gpu, collateral, now) == ("collateral-missing", 7)
    claims = check(gpu, collateral, now, allow_unchecked_collateral=True)
    assert claims.unchecked == unchecked


def test_one_rim_of_two_is_not_enough(gpu, now):
    whole = gpu.collateral(now)
    for rim in whole.rims:
        collateral = replace(whole, rims=(rim,))
        assert refused(gpu, collateral, now) == ("collateral-missing", 7)


@pytest.mark.parametrize("index", range(4))
def test_a_measurement_that_nvidia_does_not_call_good_is_refused(gpu, now, index):
    shown = list(gpu.measurements)
    shown[index] = b"\x66" * 48
    report = gpu.report(NONCE, shown)
    found = refused(
        gpu, gpu.collateral(now), now, report, allow_unchecked_collateral=True
    )
    assert found == ("reference-mismatch", 6)


def test_a_report_that_leaves_a_measurement_out_is_refused(gpu, now):
    report = gpu.report(NONCE, gpu.measurements[:3])
    assert refused(gpu, gpu.collateral(now), now, report)[0] == "reference-mismatch"


def test_any_of_several_values_is_good(gpu, now):
    whole = gpu.collateral(now)
    several = {0: [bytes(48), gpu.measurements[0]], 1: [gpu.measurements[1]]}
    rims = (gpu.rim(DRIVER, several), whole.rims[1])
    assert check(gpu, replace(whole, rims=rims), now).unchecked == ()


def test_the_decoder_is_compared_only_where_it_is_on(gpu, now):
    whole = gpu.collateral(now)
    driver = {0: [gpu.measurements[0]], 35: [b"\7" * 48]}
    collateral = replace(whole, rims=(gpu.rim(DRIVER, driver), whole.rims[1]))
    off, on = (gpu.report(NONCE, opaque={11: bytes([b])}) for b in (0x55, 0xAA))
    assert check(gpu, collateral, now, off).unchecked == ()
    assert refused(gpu, collateral, now, on)[0] == "reference-mismatch"


def test_rims_of_other_versions_and_products_are_ignored(gpu, now):
    whole = gpu.collateral(now)
    older = gpu.rim("545.00", {0: [bytes(48)]})
    foreign = gpu.rim(DRIVER, {0: [bytes(48)]}, RimDefects(product="GB100"))
    assert check(gpu, replace(whole, rims=(*whole.rims, older, foreign)), now)
    collateral = replace(whole, rims=(older, foreign, whole.rims[1]))
    assert refused(gpu, collateral, now) == ("collateral-missing", 7)


def test_the_rim_of_another_board_of_that_version_does_no_harm(gpu, now):
    whole = gpu.collateral(now)
    other_board = gpu.rim(VBIOS, {2: [b"\x55" * 48]})
    assert check(gpu, replace(whole, rims=(other_board, *whole.rims)), now)
    only_other = replace(whole, rims=(other_board, whole.rims[0]))
    assert refused(gpu, only_other, now)[0] == "reference-mismatch"


def test_driver_and_vbios_may_not_both_give_a_measurement(gpu, now):
    both = gpu.rim(VBIOS, {0: [gpu.measurements[0]]})
    whole = gpu.collateral(now)
    collateral = replace(whole, rims=(whole.rims[0], both))
    assert refused(gpu, collateral, now) == ("rim-conflict", 6)


def test_a_rim_of_another_signer_is_refused(gpu, now):
    whole = gpu.collateral(now)
    other = SimulatedNvidia().rim_signer
    forged = gpu.rim(DRIVER, {0: [bytes(48)]}, RimDefects(signer=other))
    collateral = replace(whole, rims=(forged, whole.rims[1]))
    assert refused(gpu, collateral, now) == ("certificate-signature", 6)


def test_a_rim_whose_signers_time_is_over_is_refused(gpu, now):
    valid = now - timedelta(days=700), now - timedelta(days=1)
    signer = issue("old", gpu.rim_root, valid=valid)
    old = gpu.rim(DRIVER, {0: [gpu.measurements[0]]}, RimDefects(signer=signer))
    whole = gpu.collateral(now)
    collateral = replace(whole, rims=(old, whole.rims[1]))
    assert refused(gpu, collateral, now) == ("certificate-expired", 6)
    assert check(gpu, replace(whole, rims=(old, *whole.rims)), now)


@pytest.mark.parametrize("who", ["ca", "rim_signer"])
def test_revoked_certificates_are_refused_whatever_is_allowed(gpu, now, who):
    serial = getattr(gpu, who).certificate.serial_number
    collateral = gpu.collateral(now, revoked=[serial])
    found = refused(gpu, collateral, now, allow_unchecked_collateral=True)
    assert found == ("certificate-revoked", 6)


def test_a_response_counts_for_a_day(gpu, now):
    old = gpu.collateral(now - timedelta(hours=25))
    assert refused(gpu, old, now) == ("collateral-missing", 7)
    early = gpu.collateral(now + timedelta(hours=1))
    assert refused(gpu, early, now) == ("collateral-missing", 7)


def answered(gpu, now, **options):
    response = ocsp_response(gpu.ca, gpu.root, now, **options)
    return replace(gpu.collateral(now), ocsp=(response,))


def test_the_issuer_may_delegate_responses(gpu, now):
    signer = issue("responder", gpu.root, extensions=OCSP_SIGNING)
    assert check(gpu, answered(gpu, now, signer=signer), now)
    serial = gpu.ca.certificate.serial_number
    collateral = answered(gpu, now, signer=signer, revoked=[serial])
    assert refused(gpu, collateral, now) == ("certificate-revoked", 6)


def test_responses_of_others_neither_clear_nor_accuse(gpu, now):
    past = now - timedelta(days=9), now - timedelta(days=1)
    other = SimulatedNvidia()
    for signer in (
        issue("no usage", gpu.root),
        issue("expired", gpu.root, extensions=OCSP_SIGNING, valid=past),
        issue("stranger", other.root, extensions=OCSP_SIGNING),
        issue("of the CA", gpu.ca, extensions=OCSP_SIGNING),
    ):
        for revoked in ([], [gpu.ca.certificate.serial_number]):
            collateral = answered(gpu, now, signer=signer, revoked=revoked)
            assert refused(gpu, collateral, now) == ("collateral-missing", 7)
    response = ocsp_response(other.ca, other.root, now)
    collateral = replace(gpu.collateral(now), ocsp=(response,))
    assert refused(gpu, collateral, now) == ("collateral-missing", 7)


def test_certificates_of_others_in_the_folder_do_no_harm(gpu, now):
    whole = gpu.collateral(now)
    twin = SimulatedNvidia().leaf.der
    strangers = tuple(issue(f"x{i}").der for i in range(9))
    for certificates in ((*strangers, *gpu.chain), (*gpu.chain, *strangers)):
        assert check(gpu, replace(whole, certificates=certificates), now)
    # One that could be of this chain by its names, and is not.
    found = refused(gpu, replace(whole, certificates=(*gpu.chain, twin)), now)
    assert found == ("untrusted-root", 6)


def test_collateral_of_devices_survives_its_files(gpu, now, tmp_path):
    from privacy.tee.collateral import FileCollateral

    whole = gpu.collateral(now)
    for i, raw in enumerate((*whole.ocsp, *whole.crls, *whole.rims)):
        (tmp_path / f"{i}").write_bytes(raw)
    found = FileCollateral((tmp_path,)).collateral()
    assert found == replace(whole, certificates=())
    assert found + Collateral(certificates=gpu.chain) == whole
