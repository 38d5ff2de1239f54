"""Whether a device runs NVIDIA's firmware and driver, with certificates in force. Pure.

    1. No certificate above the device's own was revoked, by CRLs or OCSP responses.
       The leaf is made by the device for its firmware: nobody lists it.
    2. The reference measurements (RIM) of the report's driver and VBIOS are genuine,
       and none of their signers' certificates was revoked.
    3. Every measurement that they call active shows one of their values.

What was not given is not an error here: the claims say what is unchecked.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from privacy.errors import AppraisalError, VerificationError
from privacy.tee.checks import Checklist
from privacy.tee.claims import Claims
from privacy.tee.collateral import Collateral
from privacy.tee.nvidia import NvidiaReport
from privacy.tee.revocation import check_revocation
from privacy.tee.rim import Rim, mismatches, parse_rim, verify_rim
from privacy.tee.trust import TrustStore

NO_RIM = "reference measurements"
_NVDEC0 = 35  # shows a good value only where the decoder is enabled


def is_compared(claims: Claims) -> bool:
    """Whether NVIDIA's reference values were compared with these claims."""
    return claims.vendor == "nvidia" and NO_RIM not in claims.unchecked


def device_status(
    report: NvidiaReport,
    claims: Claims,
    collateral: Collateral,
    *,
    trust_store: TrustStore,
    now: datetime,
    checks: Checklist,
) -> Claims:
    """Return the claims with what NVIDIA says of the device looked up.

    Args:
        report: Already verified.
        claims: What it says, with its checked chain.
        collateral: All there is; what is about other devices is ignored.
        trust_store: Whom to trust.
        now: When everything must be valid.
        checks: Gets a line for every step.

    Raises:
        VerificationError: A certificate was revoked, or a RIM is not genuine.
        AppraisalError: A measurement is none that NVIDIA calls good.
    """
    with checks.step("revocation", "no certificate above the device's was revoked"):
        clear = check_revocation(
            claims.chain[1:], collateral.crls, collateral.ocsp, now=now
        )
    rims = [parse_rim(raw) for raw in collateral.rims]
    products = {claims.product, report.chip} | ({"LS10"} if report.is_switch else set())
    chosen: list[Rim] = []
    for what, version in report.versions.items():
        fitting = [
            rim
            for rim in rims
            if rim.version == version.lower() and rim.product in products
        ]
        if fitting:
            with checks.step(f"{what}-rim", f"reference measurements of {version}"):
                fitting.sort(key=lambda rim: len(_bad([rim], report)))
                genuine, known = _first_genuine(fitting, collateral, trust_store, now)
            clear &= known
            chosen.append(genuine)
    if chosen:
        with checks.step(NO_RIM.replace(" ", "-"), "NVIDIA's values, where active"):
            _compare(chosen, report)
    unchecked: tuple[str, ...] = () if clear else ("revocation",)
    if len(chosen) < len(report.versions):
        unchecked += (NO_RIM,)
    return replace(claims, unchecked=unchecked)


def _first_genuine(
    rims: Sequence[Rim],
    collateral: Collateral,
    trust_store: TrustStore,
    now: datetime,
) -> tuple[Rim, bool]:
    """Return the first that verifies, and whether revocation is known of its signers.

    A version may have several, one a board, and old ones whose signer's time is over.

    Raises:
        VerificationError: None of them does.
    """
    *others, last = rims
    for rim in others:
        with contextlib.suppress(VerificationError):
            return rim, _verify(rim, collateral, trust_store, now)
    return last, _verify(last, collateral, trust_store, now)


def _verify(
    rim: Rim, collateral: Collateral, trust_store: TrustStore, now: datetime
) -> bool:
    chain = verify_rim(rim, trust_store, now=now)
    return check_revocation(chain, collateral.crls, collateral.ocsp, now=now)


def _compare(rims: Sequence[Rim], report: NvidiaReport) -> None:
    if len(rims) > 1 and (both := set(rims[0].values) & set(rims[1].values)):
        msg = f"driver and VBIOS RIM both give measurement {min(both)}: one is wrong"
        raise VerificationError(msg, code="rim-conflict")
    if bad := _bad(rims, report):
        names = ", ".join(f"m{index + 1}" for index in bad)
        msg = (
            f"{names} of the report are not among NVIDIA's values: firmware or driver "
            "were changed, or are of another board"
        )
        raise AppraisalError(msg, code="reference-mismatch")


def _bad(rims: Sequence[Rim], report: NvidiaReport) -> list[int]:
    found = [i for rim in rims for i in mismatches(rim, report.measurements)]
    return [i for i in sorted(found) if i != _NVDEC0 or not report.nvdec0_disabled]
