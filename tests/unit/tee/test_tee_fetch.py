"""Vendors' services, honest and not: what is believed, kept, and asked again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from lying_attester import LyingTdxAttester
from vendor_services import VendorServices

from privacy.errors import (
    CannotVerifyError,
    FormatError,
    LimitError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
    VerificationError,
)
from privacy.tee.attest import attest
from privacy.tee.cache import CollateralCache
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral, FileCollateral, kept_in
from privacy.tee.fetch import Patience, VendorCollateral
from privacy.tee.inventory import inventory
from privacy.tee.policy import Relaxations
from privacy.tee.services import product_of, wanted, wanted_of_rims
from privacy.tee.simulated_amd import SimulatedAmd
from privacy.tee.simulated_collateral import Defects
from privacy.tee.simulated_composite import compose
from privacy.tee.simulated_nvidia import SimulatedNvidia
from privacy.tee.snp import parse_snp_report
from privacy.tee.trust import simulated_trust_store

HASTY = Patience(answer_s=20, tries=2, wait_s=0.01, longest_wait_s=2)
SLOW = "slow 0.05"
DATA = bytes(64)


@pytest.fixture(scope="module")
def intel():
    return LyingTdxAttester()


@pytest.fixture(scope="module")
def quote(intel, measurements):
    return intel.quote(DATA, measurements)


@pytest.fixture(scope="module")
def amd():
    return SimulatedAmd()


@pytest.fixture
def services(intel, amd, now):
    with VendorServices(intel=intel, amd=amd, now=now) as running:
        yield running


def ask(services, evidence, *, store=None, patience=HASTY, **options):
    source = VendorCollateral(
        store or simulated_trust_store(),
        services=services.addresses,
        patience=patience,
        **options,
    )
    return source.collateral(evidence)


def accepted(evidence, store, collateral, now):
    return attest(
        evidence,
        trust_store=store,
        collateral=collateral,
        now=now,
        checks=Checklist(),
        policy=Relaxations(),
    ).claims[0]


def test_what_intels_service_says_verifies_a_quote_without_relaxation(
    services, quote, now
):
    said = []
    found = ask(services, quote, progress=said.append)
    assert accepted(quote, simulated_trust_store(), found, now).tcb_status == "UpToDate"
    assert len(services.asked) == len(said) == 4
    assert any("TDX 51AB0F000000" in words for words in said)


@pytest.mark.parametrize("product", ["Milan", "Turin"])
def test_what_amds_service_says_verifies_a_report_without_relaxation(amd, product, now):
    amd = SimulatedAmd(product=product, version=5, key=amd.ark.key)
    report = amd.report(DATA)
    with VendorServices(amd=amd, now=now) as services:
        found = ask(services, report, store=amd.trust_store)
    claims = accepted(report, amd.trust_store, found, now)
    assert (claims.unchecked, claims.product) == ((), f"Simulated{product}")
    path = services.asked[0]
    assert path.startswith(f"/vcek/v1/{product}/")
    if product == "Turin":
        chip = path.split("/")[4].partition("?")[0]
        assert chip == amd.chip_id[:8].hex()
        assert path.endswith("fmcSPL=01&blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84")
    else:
        assert path.endswith("?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84")


def test_a_vlek_is_not_asked_for_but_its_crl_is(amd):
    amd = SimulatedAmd(vlek=True, product="Milan", key=amd.ark.key)
    paths = [w.path for w in wanted(amd.report(DATA))]
    assert paths == ["/vlek/v1/Milan/cert_chain", "/vlek/v1/Milan/crl"]


@pytest.mark.parametrize(
    ("chip", "paths"),
    [
        (
            "GH100",
            [
                "/v1/rim/NV_GPU_DRIVER_GH100_550.90.07",
                "/v1/rim/NV_GPU_VBIOS_1010_0200_882_96009F0001",
            ],
        ),
        (
            "GB100",
            [
                "/v1/rim/NV_GPU_CC_DRIVER_GB100_550.90.07",
                "/v1/rim/NV_GPU_VBIOS_1010_0200_882_96009F0001",
            ],
        ),
        ("LS10", ["/v1/rim/NV_SWITCH_BIOS_5612_0002_890_9610550001"]),
    ],
)
def test_what_nvidias_services_say_verifies_a_report_without_relaxation(
    chip, paths, now, tmp_path
):
    device = SimulatedNvidia(chip=chip)
    report, store = device.report(bytes(32)), device.trust_store
    beside = Collateral(certificates=device.chain)
    with VendorServices(nvidia=device, now=now) as services:
        keep = CollateralCache(tmp_path, now)
        options = {"store": store, "beside": beside.certificates, "keep": keep}
        found = ask(services, report, **options)
        assert services.asked == ["/", *paths, "/"]
        assert ask(services, report, **options) == found
    assert len(services.asked) == len(paths) + 2
    assert accepted(report, store, found + beside, now).product == chip
    offline = FileCollateral((tmp_path,)).collateral()
    assert accepted(report, store, offline + beside, now).product == chip


def test_a_device_whose_certificates_are_not_given_cannot_be_asked_about():
    with pytest.raises(CannotVerifyError) as caught:
        wanted(SimulatedNvidia().report(bytes(32)))
    assert caught.value.code == "certificate-missing"


def test_processor_families_are_told_by_the_report(amd):
    for cpuid, product in [
        ((0x19, 0x01), "Milan"),
        ((0x19, 0x11), "Genoa"),
        ((0x19, 0xA0), "Genoa"),
        ((0x1A, 0x02), "Turin"),
    ]:
        report = parse_snp_report(amd.report(DATA, fields={0x188: bytes(cpuid)}))
        assert product_of(report) == product


def test_a_report_that_does_not_name_its_family_needs_the_option(amd):
    old = SimulatedAmd(version=2, key=amd.ark.key).report(DATA)
    with pytest.raises(CannotVerifyError) as caught:
        wanted(old)
    assert caught.value.code == "product-unknown"
    assert wanted(old, product="Milan")[0].path.startswith("/vcek/v1/Milan/")
    with pytest.raises(FormatError):
        wanted(old, product="Naples")


def test_a_masked_chip_cannot_be_asked_for(amd):
    with pytest.raises(CannotVerifyError) as caught:
        wanted(amd.report(DATA, fields={0x1A0: bytes(64)}))
    assert caught.value.code == "certificate-missing"


@pytest.mark.parametrize(
    ("how", "kind", "code"),
    [
        ("status 500", UnavailableError, "collateral-unavailable"),
        ("status 503", UnavailableError, "collateral-unavailable"),
        ("status 403", UnavailableError, "collateral-refused"),
        ("status 404", NotFoundError, "collateral-not-found"),
        ("busy 0", UnavailableError, "collateral-unavailable"),
        ("busy 3600", UnavailableError, "collateral-unavailable"),
        ("busy soon", UnavailableError, "collateral-unavailable"),
        ("truncated", UnavailableError, "collateral-unavailable"),
        (SLOW, UnavailableError, "collateral-unavailable"),
        ("page", FormatError, "collateral-content-type"),
        ("garbage", FormatError, "unknown-collateral"),
        ("empty", FormatError, "unknown-collateral"),
        ("huge", LimitError, "too-large"),
        ("elsewhere http://127.0.0.1:1/tcb?fmspc=", FormatError, "collateral-redirect"),
        ("chainless", FormatError, "collateral-chain-missing"),
        ("other /qe/identity", FormatError, "collateral-about-another"),
        ("other /crl", FormatError, "collateral-about-another"),
    ],
)
def test_a_service_that_misbehaves_is_a_typed_error(services, quote, how, kind, code):
    services.misbehave("/tcb?", how)
    patience = replace(HASTY, answer_s=0.3, tries=1) if how == SLOW else HASTY
    with pytest.raises(kind) as caught:
        ask(services, quote, patience=patience)
    assert (type(caught.value), caught.value.code) == (kind, code)
    said = caught.value.message
    assert any(name in said for name in ("127.0.0.1", "TDX 51AB0F000000"))


def test_a_busy_service_is_asked_again_and_then_believed(services, quote, now):
    services.misbehave("/tcb?", "status 502", times=1)
    services.misbehave("/qe/identity", "busy 0", times=1)
    services.misbehave("/pckcrl?", "truncated", times=1)
    found = ask(services, quote)
    assert accepted(quote, simulated_trust_store(), found, now)
    assert len(services.asked) == 7


def test_a_long_wait_is_left_to_the_user(services, quote):
    services.misbehave("/tcb?", "busy 3600")
    with pytest.raises(UnavailableError, match="try again in 3600 s"):
        ask(services, quote)
    assert len(services.asked) == 1


def test_an_answer_out_of_date_is_refused(intel, quote, now):
    old = Defects(age=timedelta(days=31))
    running = VendorServices(intel=intel, now=now, defects=old)
    with running as services, pytest.raises(CannotVerifyError) as caught:
        ask(services, quote)
    assert caught.value.code == "collateral-expired"


def test_an_answer_under_another_root_is_refused(services, quote, amd):
    with pytest.raises(VerificationError) as caught:
        ask(services, quote, store=amd.trust_store)
    assert caught.value.code == "untrusted-root"
    other = SimulatedAmd(shipped=True).trust_store
    with pytest.raises(VerificationError) as caught:
        ask(services, amd.report(DATA), store=other)
    assert caught.value.code == "untrusted-root"


def test_an_answer_about_another_platform_is_refused(intel, quote, now):
    other = Defects(tcb_info={"fmspc": "00606A000000"})
    running = VendorServices(intel=intel, now=now, defects=other)
    with running as services, pytest.raises(FormatError) as caught:
        ask(services, quote)
    assert caught.value.code == "collateral-about-another"


def test_a_service_that_is_gone_is_a_typed_error(intel, quote, now):
    with VendorServices(intel=intel, now=now) as services:
        pass
    with pytest.raises(UnavailableError):
        ask(services, quote)


@pytest.mark.parametrize(
    "address", ["http://pcs.example.com", "ftp://localhost", "pcs", "https://", ""]
)
def test_only_https_leaves_the_machine(quote, address):
    source = VendorCollateral(simulated_trust_store(), services={"intel": address})
    with pytest.raises(FormatError) as caught:
        source.collateral(quote)
    assert caught.value.code == "bad-address"


def test_answers_are_kept_and_verify_offline(services, quote, now, tmp_path):
    keep = CollateralCache(tmp_path, now)
    first = ask(services, quote, keep=keep)
    assert ask(services, quote, keep=keep) == first
    assert len(services.asked) == 4
    ask(services, quote, keep=keep, refresh=True)
    assert len(services.asked) == 8
    offline = FileCollateral((tmp_path,)).collateral()
    assert accepted(quote, simulated_trust_store(), offline, now)


def test_what_is_kept_is_asked_for_again_when_it_ends(services, quote, now, tmp_path):
    ask(services, quote, keep=CollateralCache(tmp_path, now))
    later = CollateralCache(tmp_path, now + timedelta(days=31))
    ask(services, quote, keep=later)
    assert len(services.asked) == 8


def test_a_kept_answer_that_was_damaged_is_asked_for_again(
    services, quote, now, tmp_path
):
    keep = CollateralCache(tmp_path, now)
    ask(services, quote, keep=keep)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    found = ask(services, quote, keep=keep)
    assert len(services.asked) == 8
    assert accepted(quote, simulated_trust_store(), found, now)


def test_of_ocsp_responses_only_the_last_is_kept(now, tmp_path):
    device = SimulatedNvidia()
    options = {"store": device.trust_store, "beside": device.chain}
    options["keep"] = CollateralCache(tmp_path, now)
    with VendorServices(nvidia=device, now=now - timedelta(hours=2)) as services:
        first = ask(services, device.report(bytes(32)), **options)
        services._nvidia(device, now)
        second = ask(services, device.report(bytes(32)), refresh=True, **options)
    kept = FileCollateral((tmp_path,)).collateral()
    assert set(kept.rims) == {*first.rims, *second.rims}
    assert len(kept.rims) == 4
    assert set(kept.ocsp) == set(second.ocsp) != set(first.ocsp)


def test_a_folder_that_is_not_there_holds_nothing(tmp_path, services, quote, now):
    folder = tmp_path / "kept"
    assert kept_in(folder).collateral() == Collateral()
    found = ask(services, quote, keep=CollateralCache(folder, now))
    kept = kept_in(folder).collateral()
    assert set(kept.crls) == set(found.crls)


def test_a_refused_answer_is_not_kept(services, quote, now, tmp_path):
    services.misbehave("/tcb?", "other /qe/identity")
    with pytest.raises(PrivacyError):
        ask(services, quote, keep=CollateralCache(tmp_path, now))
    assert not list(tmp_path.iterdir())


def test_a_service_that_fails_leaves_what_is_kept(services, quote, now, tmp_path):
    ask(services, quote, keep=CollateralCache(tmp_path, now))
    before = sorted(tmp_path.iterdir())
    services.misbehave("/", "status 500")
    with pytest.raises(UnavailableError):
        ask(services, quote, keep=CollateralCache(tmp_path, now), refresh=True)
    assert sorted(tmp_path.iterdir()) == before


def test_the_real_platforms_are_asked_about(vectors):
    paths = [w.path for w in wanted((vectors / "dcap-qvl/tdx_quote").read_bytes())]
    assert paths[0].startswith("/tdx/certification/v4/tcb?fmspc=")
    assert "ca=platform" in paths[2]
    raw = (vectors / "dcap-qvl/sgx_quote").read_bytes()
    asked = wanted(raw)
    assert asked[0].path.startswith("/sgx/certification/v4/tcb?fmspc=")
    assert asked[1].about == "QE"
    raw = (vectors / "trustee/snp/test-vlek-report.bin").read_bytes()
    assert wanted(raw)[0].path == "/vlek/v1/Milan/cert_chain"
    raw = (vectors / "evervault/valid-attestation-doc-bytes").read_bytes()
    assert not wanted(raw)
    raw = (vectors / "nvidia-attestation-sdk/hopper_evidence.json").read_bytes()
    assert [w.path for w in wanted(raw)] == [
        *["/"] * 3,
        "/v1/rim/NV_GPU_DRIVER_GH100_590.12",
        "/v1/rim/NV_GPU_VBIOS_G520_0200_885_9600A50001",
    ]
    rim = (vectors / "nvtrust/Driver_RIM_test_no_gpu.swidtag").read_bytes()
    assert len(wanted_of_rims([rim])) == 3


def test_real_collateral_counts_when_it_did(vectors):
    folder = vectors / "dcap-qvl/tdx_quote_collateral.json"
    entries = inventory(FileCollateral((folder,)).collateral())
    now = datetime(2025, 7, 1, tzinfo=UTC)
    assert {e.kind for e in entries} == {
        "certificate",
        "crl",
        "tcb-info",
        "qe-identity",
    }
    for entry in entries:
        assert entry.counts(now)
        assert entry.as_dict(now)["counts"]
        if entry.kind != "certificate" and "Root" not in entry.about:
            assert not entry.counts(now + timedelta(days=60))


def test_all_vendors_of_a_composite_are_asked(intel, measurements, now):
    gpu = SimulatedNvidia(shipped=True)
    evidence = compose(
        intel, [gpu], nonce=bytes(32), bound=DATA, measurements=measurements
    ).to_bytes()
    with VendorServices(intel=intel, nvidia=gpu, now=now) as services:
        found = ask(services, evidence)
    assert len(services.asked) == 8
    assert accepted(evidence, simulated_trust_store(), found, now).format == "tdx-v4"


def test_real_answers_of_intels_service_are_read(vectors):
    folder = vectors / "go-tdx-guest"
    names = "sample_tcbInfo_response", "sample_qeIdentity_response", "pckcrl"
    paths = tuple(folder / name for name in (*names, "rootcrl.der"))
    entries = inventory(FileCollateral(paths).collateral())
    assert [(e.kind, e.about) for e in entries] == [
        ("crl", "Intel SGX PCK Platform CA"),
        ("crl", "Intel SGX Root CA"),
        ("tcb-info", "TDX 50806F000000"),
        ("qe-identity", "TD_QE"),
    ]
