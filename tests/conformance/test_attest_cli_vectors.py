"""`privacy attest verify` gives each file of the vectors' README its verdict.

One row for each verdict that the README states, in its order; what is "chain OK" there
is accepted here once TCB status and revocation may stay unknown.
"""

import json

import pytest

from privacy.cli import run

ANYWAY, DEBUG = "--allow-unchecked-collateral", "--allow-debug"
SUMMER, SPRING, JULY = (
    "2025-06-20T00:00:00Z",
    "2026-02-20T00:00:00Z",
    "2025-07-10T00:00:00Z",
)
QVL, TDX, SNP = "dcap-qvl/", "trustee/tdx/", "trustee/snp/"
SDK, NVT, NVC = "nvidia-attestation-sdk/", "nvtrust/", "trustee/nvidia/"
OWN = QVL + "tdx_quote_collateral.json"
HARDENING = ["--allow-tcb-status", "ConfigurationAndSWHardeningNeeded"]

# File, beside it, time, options; then format and TCB status, or exit code and reason.
ROWS = [
    (QVL + "tdx_quote", OWN, "2025-06-19T10:32:27Z", [], "tdx-v4 UpToDate"),
    (QVL + "tdx_quote", OWN, SUMMER, [], "tdx-v4 UpToDate"),
    (QVL + "tdx_quote", OWN, "2025-07-19T10:16:03Z", [ANYWAY], "tdx-v4 UpToDate"),
    (QVL + "tdx_quote", OWN, "2025-06-19T10:32:26Z", [], "7 collateral-expired"),
    (QVL + "tdx_quote", OWN, "2025-07-19T10:16:04Z", [ANYWAY], "7 collateral-expired"),
    (
        QVL + "sgx_quote",
        QVL + "sgx_quote_collateral.json",
        SUMMER,
        HARDENING,
        "sgx-v3 ConfigurationAndSWHardeningNeeded INTEL-SA-00289 INTEL-SA-00615",
    ),
    (
        QVL + "sgx_quote",
        QVL + "sgx_quote_collateral.json",
        SUMMER,
        [],
        "6 tcb-status",
    ),
    (QVL + "tdx_quote_outdated", "", SPRING, [ANYWAY], "tdx-v5"),
    (
        QVL + "tdx_quote_outdated",
        QVL + "tdx_quote_outdated_collateral.json",
        SPRING,
        [],
        "6 tcb-level-missing",
    ),
    (QVL + "quote-from-tappd.hex", "", SUMMER, [ANYWAY], "tdx-v4"),
    (QVL + "quote-from-tappd.hex", OWN, JULY, [], "6 tcb-level-missing"),
    (QVL + "tdx-quote.hex", "", SUMMER, [ANYWAY], "tdx-v4"),
    (QVL + "tdx-quote.hex", OWN, JULY, [], "6 tcb-level-missing"),
    ("go-tdx-guest/tdx_prod_quote_SPR_E4.dat", "", SUMMER, [ANYWAY], "2 not-canonical"),
    (TDX + "tdx_quote_4.dat", "", SUMMER, [ANYWAY, DEBUG], "tdx-v4"),
    (TDX + "tdx_quote_4.dat", "", SUMMER, [ANYWAY], "6 debug-enclave"),
    (TDX + "tdx_quote_6.dat", TDX, "2025-10-28T12:00:00Z", [ANYWAY], "6 tcb-status"),
    (TDX + "tdx_quote_6.dat", TDX, "2025-11-12T00:00:00Z", [ANYWAY], "6 tcb-status"),
    (
        TDX + "tdx_quote_6.dat",
        TDX,
        "2025-11-12T00:00:00Z",
        [ANYWAY, "--allow-tcb-status", "OutOfDate"],
        "tdx-v4 OutOfDate",
    ),
    (TDX + "occlum_quote.dat", "", SUMMER, [ANYWAY, DEBUG], "sgx-v3"),
    (TDX + "occlum_quote.dat", "", SUMMER, [ANYWAY], "6 debug-enclave"),
    (
        "go-sev-guest/attestation.bin",
        "go-sev-guest/vcek.testcer",
        SUMMER,
        [ANYWAY, DEBUG],
        "snp-v2",
    ),
    (
        "go-sev-guest/attestation.bin",
        "go-sev-guest/vcek.testcer",
        SUMMER,
        [ANYWAY],
        "6 debug-enclave",
    ),
    (
        "virtee-sev/report_milan.hex",
        "virtee-sev/vcek_milan.der",
        SUMMER,
        [ANYWAY],
        "snp-v2",
    ),
    (SNP + "test-report.bin", SNP + "test-vcek.der", SUMMER, [ANYWAY], "snp-v2"),
    *(
        (
            SNP + "test-report.bin",
            f"{SNP}test-vcek-invalid-{which}.der",
            SUMMER,
            [ANYWAY],
            "6 certificate-signature",
        )
        for which in ("legacy", "new")
    ),
    (SNP + "test-vlek-report.bin", SNP + "test-vlek.der", SUMMER, [ANYWAY], "snp-v3"),
    (
        SNP + "test-vlek-report.bin",
        SNP + "test-vlek.der",
        "2025-12-11T00:00:00Z",
        [ANYWAY],
        "6 certificate-expired",
    ),
    (
        "evervault/valid-attestation-doc-bytes",
        "",
        "2022-10-13T08:58:02Z",
        [],
        "nitro",
    ),
    ("evervault/valid-attestation-doc-bytes", "", SUMMER, [], "6 certificate-expired"),
    (
        "evervault/debug-mode-attestation-doc-bytes",
        "",
        "2022-10-12T14:30:00Z",
        [DEBUG],
        "nitro",
    ),
    (
        "evervault/debug-mode-attestation-doc-bytes",
        "",
        "2022-10-12T14:30:00Z",
        [],
        "6 debug-enclave",
    ),
    *(
        (f"{report}.txt", f"{chain}.txt", SUMMER, [ANYWAY], "nvidia-spdm-1.1")
        for report, chain in [
            (NVT + "hopperAttestationReport", NVT + "hopperCertChain"),
            (SDK + "unit/hopperAttestationReport", SDK + "unit/hopperCertChain"),
            (SDK + "gpu/hopperAttestationReport", SDK + "gpu/hopperCertChain"),
            (
                SDK + "gpu/hopperAttestationReportExpired",
                SDK + "gpu/hopperCertChainExpired",
            ),
            (NVC + "hopperAttestationReport", NVC + "hopper_cert_chain_case1"),
            (NVC + "hopper_coco_report1", NVC + "hopper_coco_certs1"),
        ]
    ),
    (SDK + "hopper_evidence.json", "", SUMMER, [ANYWAY], "nvidia-spdm-1.1"),
    (
        SDK + "gpu/hopperAttestationReportInvalidSignature.txt",
        SDK + "gpu/hopperCertChain.txt",
        SUMMER,
        [ANYWAY],
        "6 report-signature",
    ),
]


def verdict_of(capsys, *arguments):
    code = run(["attest", "verify", *map(str, arguments), "--json"])
    found = json.loads(capsys.readouterr().out)
    if "error" in found:
        assert found["error"]["exit_code"] == code
        return f"{code} {found['error']['code']}"
    assert (code, found["verdict"], found["simulated"]) == (0, "accepted", False)
    (claims,) = found["claims"]
    words = [claims["format"], claims["tcb_status"], *claims["advisories"]]
    return " ".join(filter(None, words))


@pytest.mark.parametrize(
    ("file", "beside", "at", "options", "expected"),
    ROWS,
    ids=[f"{i}-{row[0].rpartition('/')[2]}" for i, row in enumerate(ROWS)],
)
def test_verify_gives_the_verdict_of_the_readme(
    capsys, vectors, file, beside, at, options, expected
):
    collateral = ["--collateral", vectors / beside] if beside else []
    arguments = [vectors / file, *collateral, "--at", at, *options]
    assert verdict_of(capsys, *arguments) == expected


def test_every_piece_of_evidence_that_the_readme_names_has_a_row(vectors):
    names = {row[0].rpartition("/")[2] for row in ROWS}
    stated = (vectors / "README.md").read_text().partition("## DCAP")[2]
    words = {w.strip("`*:,;|()").rpartition("/")[2] for w in stated.split()}
    evidence = {w for w in words if w.endswith((".dat", ".hex", ".bin", "-bytes"))}
    missing = evidence - names
    assert len(evidence) > 8
    assert missing == set()
