"""Real evidence of every vendor gets the verdict that its collectors found.

The files are described in the README beside them; each row of it is here.
"""

import json
from datetime import datetime
from pathlib import Path

import pytest

from privacy.errors import FormatError, PrivacyError
from privacy.tee import snp
from privacy.tee.attest import attest, show
from privacy.tee.chain import extension_value, verify_chain
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral, FileCollateral
from privacy.tee.detect import detect
from privacy.tee.policy import Relaxations
from privacy.tee.trust import hardware_trust_store, simulated_trust_store

SUMMER = "2025-06-20T00:00:00Z"
SPRING = "2026-02-20T00:00:00Z"
SNP, NV, SDK = "trustee/snp/", "nvtrust/", "nvidia-attestation-sdk/"
GENUINE = [
    ("dcap-qvl/tdx_quote", "", SUMMER, "tdx-v4"),
    ("dcap-qvl/sgx_quote", "", SUMMER, "sgx-v3"),
    ("dcap-qvl/tdx_quote_outdated", "", SPRING, "tdx-v5"),
    ("dcap-qvl/quote-from-tappd.hex", "", SUMMER, "tdx-v4"),
    ("dcap-qvl/tdx-quote.hex", "", SUMMER, "tdx-v4"),
    ("trustee/tdx/tdx_quote_6.dat", "", SUMMER, "tdx-v4"),
    ("virtee-sev/report_milan.hex", "virtee-sev/vcek_milan.der", SUMMER, "snp-v2"),
    (SNP + "test-report.bin", SNP + "test-vcek.der", SUMMER, "snp-v2"),
    (SNP + "test-report.bin", SNP, SUMMER, "snp-v2"),
    (SNP + "test-vlek-report.bin", SNP + "test-vlek.der", SUMMER, "snp-v3"),
    ("evervault/valid-attestation-doc-bytes", "", "2022-10-13T08:58:02Z", "nitro"),
    (NV + "hopperAttestationReport.txt", NV + "hopperCertChain.txt", SUMMER, ""),
    (
        "trustee/nvidia/hopper_coco_report1.txt",  # a byte follows its signature
        "trustee/nvidia/hopper_coco_certs1.txt",
        SUMMER,
        "",
    ),
    (
        "trustee/nvidia/hopperAttestationReport.txt",
        "trustee/nvidia/hopper_cert_chain_case1.txt",
        SUMMER,
        "",
    ),
    *(
        (f"{SDK}{report}.txt", f"{SDK}{chain}.txt", SUMMER, "")
        for report, chain in [
            ("unit/hopperAttestationReport", "unit/hopperCertChain"),
            ("gpu/hopperAttestationReport", "gpu/hopperCertChain"),
            ("gpu/hopperAttestationReportExpired", "gpu/hopperCertChainExpired"),
        ]
    ),
    (SDK + "hopper_evidence.json", "", SUMMER, ""),
]
REFUSED = [
    ("go-tdx-guest/tdx_prod_quote_SPR_E4.dat", "", SUMMER, "not-canonical"),
    ("trustee/tdx/tdx_quote_4.dat", "", SUMMER, "debug-enclave"),
    ("trustee/tdx/occlum_quote.dat", "", SUMMER, "debug-enclave"),
    (
        "go-sev-guest/attestation.bin",
        "go-sev-guest/vcek.testcer",
        SUMMER,
        "debug-enclave",
    ),
    (
        SNP + "test-report.bin",
        SNP + "test-vcek-invalid-legacy.der",
        SUMMER,
        "certificate-signature",
    ),
    (
        SNP + "test-report.bin",
        SNP + "test-vcek-invalid-new.der",
        SUMMER,
        "certificate-signature",
    ),
    (SNP + "test-report.bin", "", SUMMER, "certificate-missing"),
    (
        SNP + "test-report.bin",
        "virtee-sev/vcek_turin.der",
        SUMMER,
        "report-signature",
    ),
    (
        SNP + "test-vlek-report.bin",
        SNP + "test-vcek.der",
        SUMMER,
        "certificate-missing",
    ),
    (
        SNP + "test-vlek-report.bin",
        SNP + "test-vlek.der",
        "2025-12-11T00:00:00Z",
        "certificate-expired",
    ),
    ("evervault/valid-attestation-doc-bytes", "", SUMMER, "certificate-expired"),
    (
        "evervault/debug-mode-attestation-doc-bytes",
        "",
        "2022-10-12T14:30:00Z",
        "debug-enclave",
    ),
    (
        SDK + "gpu/hopperAttestationReportInvalidSignature.txt",
        SDK + "gpu/hopperCertChain.txt",
        SUMMER,
        "report-signature",
    ),
    (
        NV + "hopperAttestationReport.txt",
        SDK + "gpu/hopperCertChain.txt",
        SUMMER,
        "report-signature",
    ),
    (
        NV + "hopperAttestationReport.txt",
        "trustee/nvidia/hopper_cert_chain_case3.txt",  # one certificate is left out
        SUMMER,
        "certificate-signature",
    ),
    (
        NV + "hopperAttestationReport.txt",
        "trustee/nvidia/hopper_cert_chain_case2.txt",
        SUMMER,
        "certificate-missing",
    ),
    ("README.md", "", SUMMER, "unknown-format"),
]


def verdict(vectors, file, beside, at, *, unchecked=True, store=None):
    paths = (vectors / beside,) if beside else ()
    checks = Checklist()
    return attest(
        Path(vectors / file).read_bytes(),
        trust_store=store or hardware_trust_store(),
        collateral=FileCollateral(paths).collateral(),
        now=datetime.fromisoformat(at),
        checks=checks,
        policy=Relaxations(allow_unchecked_collateral=unchecked),
    )


@pytest.mark.parametrize(("file", "beside", "at", "name"), GENUINE)
def test_genuine_evidence_is_accepted(vectors, file, beside, at, name):
    accepted = verdict(vectors, file, beside, at)
    assert [c.format for c in accepted.claims] == [name or "nvidia-spdm-1.1"]
    assert not accepted.claims[0].simulated
    assert all(check.ok for check in accepted.checks)


@pytest.mark.parametrize(("file", "beside", "at", "code"), REFUSED)
def test_other_evidence_is_refused_with_its_reason(vectors, file, beside, at, code):
    with pytest.raises(PrivacyError) as caught:
        verdict(vectors, file, beside, at)
    assert caught.value.code == code


@pytest.mark.parametrize(("file", "beside", "at", "name"), GENUINE)
def test_genuine_evidence_is_refused_by_the_simulated_store(
    vectors, file, beside, at, name
):
    codes = {"hardware-evidence", "untrusted-root", "certificate-missing"}
    with pytest.raises(PrivacyError) as caught:
        verdict(vectors, file, beside, at, store=simulated_trust_store())
    assert caught.value.code in codes


def test_what_was_not_looked_up_is_not_passed_over(vectors):
    for file, beside, at, name in GENUINE:
        if name == "nitro":  # there is nothing to look up
            assert verdict(vectors, file, beside, at, unchecked=False)
            continue
        with pytest.raises(PrivacyError) as caught:
            verdict(vectors, file, beside, at, unchecked=False)
        assert (caught.value.code, caught.value.exit_code) == ("collateral-missing", 7)


def test_show_decodes_all_of_them(vectors):
    for file, _, _, _ in GENUINE:
        for piece in show((vectors / file).read_bytes()):
            assert piece["format"]
            json.dumps(piece)


def test_nvidias_own_decoding_agrees(vectors):
    expected = json.loads((vectors / SDK / "unit/spdm_parsed_output.json").read_bytes())
    blocks = expected["MeasurementRecord"]["MeasurementBlocks"]
    (piece,) = show((vectors / SDK / "unit/hopperAttestationReport.txt").read_bytes())
    assert piece["device_nonce"] == expected["Nonce"].removeprefix("0x")
    assert piece["signature"] == expected["Signature"].removeprefix("0x")
    assert piece["measurements"] == {
        index: block["DMTFSpecMeasurementValue"].removeprefix("0x")
        for index, block in blocks.items()
    }


@pytest.mark.parametrize(
    ("file", "beside", "at", "name"),
    [GENUINE[1], GENUINE[2], GENUINE[7], GENUINE[9], GENUINE[10], GENUINE[11]],
    ids=lambda value: str(value).rpartition("/")[2],
)
def test_a_changed_byte_never_passes(vectors, file, beside, at, name):
    (item,) = detect((vectors / file).read_bytes())
    collateral = FileCollateral((vectors / beside,)).collateral() if beside else None
    store, now = hardware_trust_store(), datetime.fromisoformat(at)
    for at_byte in range(0, len(item.raw), max(1, len(item.raw) // 100)):
        changed = bytearray(item.raw)
        changed[at_byte] ^= 1 << (at_byte % 8)
        with pytest.raises(PrivacyError):
            attest(
                bytes(changed),
                trust_store=store,
                collateral=collateral or Collateral(),
                now=now,
                checks=Checklist(),
                policy=Relaxations(allow_debug=True, allow_unchecked_collateral=True),
            )


@pytest.mark.parametrize(
    "file",
    [
        "dcap-qvl/sgx_quote",
        "dcap-qvl/tdx_quote_outdated",
        SNP + "test-report.bin",
        "evervault/valid-attestation-doc-bytes",
        NV + "hopperAttestationReport.txt",
    ],
)
def test_every_truncation_is_refused_as_malformed(vectors, file):
    (item,) = detect((vectors / file).read_bytes())
    end = len(item.raw.rstrip(b"\0"))
    for size in [*range(300), *range(300, end, 37)]:
        with pytest.raises(FormatError):
            show(item.raw[:size])


QVL = "dcap-qvl/"
# The CRL of the PCK CA is the first to run out, 16 minutes before the TCB info.
LEVELS = [
    ("tdx_quote", "tdx_quote_collateral.json", "2025-06-19T10:32:27Z", "UpToDate"),
    ("tdx_quote", "tdx_quote_collateral.json", "2025-07-19T10:00:35Z", "UpToDate"),
    ("tdx_quote", "tdx_quote_collateral.json", "2025-06-19T10:32:26Z", ""),
    ("tdx_quote", "tdx_quote_collateral.json", "2025-07-19T10:00:36Z", ""),
]


def test_tcb_info_outlives_its_crl_where_that_is_accepted(vectors):
    names = QVL + "tdx_quote", QVL + "tdx_quote_collateral.json"
    (claims,) = verdict(vectors, *names, "2025-07-19T10:16:03Z").claims
    assert (claims.tcb_status, claims.unchecked) == ("UpToDate", ("revocation",))
    with pytest.raises(PrivacyError) as caught:
        verdict(vectors, *names, "2025-07-19T10:16:04Z")
    assert caught.value.code == "collateral-expired"


@pytest.mark.parametrize(("file", "collateral", "at", "status"), LEVELS)
def test_collateral_counts_exactly_while_it_is_current(
    vectors, file, collateral, at, status
):
    def run():
        return verdict(vectors, QVL + file, QVL + collateral, at, unchecked=False)

    if status:
        (claims,) = run().claims
        assert (claims.tcb_status, claims.advisories) == (status, ())
        return
    with pytest.raises(PrivacyError) as caught:
        run()
    assert caught.value.exit_code == 7


def test_a_real_sgx_platform_is_named_with_its_advisories(vectors):
    names = QVL + "sgx_quote", QVL + "sgx_quote_collateral.json", SUMMER
    with pytest.raises(PrivacyError) as caught:
        verdict(vectors, *names)
    assert caught.value.code == "tcb-status"
    for part in (
        "ConfigurationAndSWHardeningNeeded",
        "INTEL-SA-00289",
        "INTEL-SA-00615",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("file", "collateral", "at", "code"),
    [
        (
            QVL + "tdx_quote_outdated",
            QVL + "tdx_quote_outdated_collateral.json",
            SPRING,
            "tcb-level-missing",
        ),
        (
            QVL + "quote-from-tappd.hex",
            QVL + "tdx_quote_collateral.json",
            "2025-07-10T00:00:00Z",
            "tcb-level-missing",
        ),
        (
            QVL + "tdx-quote.hex",
            QVL + "tdx_quote_collateral.json",
            "2025-07-10T00:00:00Z",
            "tcb-level-missing",
        ),
        (
            "trustee/tdx/tdx_quote_6.dat",
            "trustee/tdx",
            "2025-10-28T12:00:00Z",
            "tcb-status",
        ),
        (
            "trustee/tdx/tdx_quote_6.dat",
            "trustee/tdx",
            "2025-11-12T00:00:00Z",
            "tcb-status",
        ),
    ],
)
def test_real_platforms_behind_are_refused(vectors, file, collateral, at, code):
    with pytest.raises(PrivacyError) as caught:
        verdict(vectors, file, collateral, at)
    assert caught.value.code == code
    assert code != "tcb-status" or "OutOfDate," in caught.value.message


def test_a_real_turin_chip_key_is_of_turins_shape(vectors):
    turin = next(p for p in hardware_trust_store().amd if p.name == "Turin")
    leaf = (vectors / "virtee-sev/vcek_turin.der").read_bytes()
    chain = verify_chain(
        [leaf, turin.ask, turin.ark],
        roots=[turin.ark],
        rules=snp._RULES,
        now=datetime.fromisoformat(SUMMER),
    )
    chip = extension_value(chain[0], snp._HARDWARE_ID)
    assert len(chip.removeprefix(b"\x04\x08")) == 8
    # A report of that chip and TCB, unsigned: both checks find what they look for.
    raw = bytearray(snp.REPORT_BYTES)
    raw[0x1A0:0x1A8] = chip.removeprefix(b"\x04\x08")
    for name, at in snp._TCB_TURIN.items():
        raw[0x180 + at] = extension_value(chain[0], snp._TCB_OIDS[name])[-1]
    report = snp.SnpReport(bytes(raw))
    snp._check_chip(report, chain[0], turin)
    assert set(snp._check_tcb(report, chain[0], turin)) == set(snp._TCB_TURIN)
