"""The front door: any evidence, to what it says and how far to rely on it. Pure.

    1. Detect the format, parse, and verify against the pinned roots.
    2. Look the signer up in collateral: is its firmware up to date, was it revoked?
    3. Appraise: hardware, not debug, nothing left unchecked.

Without reference values nothing is said about what runs there: `Verdict.caveats`.
"""

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from privacy.encoding import Json
from privacy.errors import (
    AppraisalError,
    CannotVerifyError,
    FormatError,
    VerificationError,
)
from privacy.tee.checks import Check, Checklist
from privacy.tee.claims import Claims
from privacy.tee.collateral import Collateral
from privacy.tee.composite import Composite
from privacy.tee.detect import Item, detect
from privacy.tee.event_log import Event, compare
from privacy.tee.evidence import Evidence
from privacy.tee.gpu import device_status, is_compared
from privacy.tee.nitro import parse_nitro_document, verify_nitro_document
from privacy.tee.nvidia import parse_nvidia_report, verify_nvidia_report
from privacy.tee.parse import Quote, SgxReport, TdReport, TdReport15, parse_quote
from privacy.tee.pck import platform_of
from privacy.tee.policy import EvidencePolicy, Relaxations, tcb_line
from privacy.tee.revocation import check_revocation
from privacy.tee.snp import parse_snp_report, verify_snp_report
from privacy.tee.tcb import tcb_status
from privacy.tee.trust import TrustStore
from privacy.tee.verify import verify_quote

_SGX_DEBUG = 2
_SEAM_SIGNER = "mrsignerseam"
_MOST_NAMED = 8
_REVOCATION = {True: "none was", False: "unknown: no current CRL of every issuer"}
NO_REFERENCE = (
    "measurements were compared with nothing: the evidence is genuine, but what runs "
    "there is for you to compare"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accepted evidence.

    Attributes:
        claims: What each piece of evidence says.
        checks: Every line, all good.
        caveats: What the verdict does not say.
        verified_at: When certificates and collateral were valid.
    """

    claims: tuple[Claims, ...]
    checks: tuple[Check, ...]
    caveats: tuple[str, ...]
    verified_at: datetime

    def as_dict(self) -> Json:
        """Return the verdict JSON-ready."""
        return {
            "verdict": "accepted",
            "simulated": any(c.simulated for c in self.claims),
            "verified_at": self.verified_at.isoformat(),
            "claims": [c.as_dict() for c in self.claims],
            "checks": [asdict(c) for c in self.checks],
            "caveats": list(self.caveats),
        }


def attest(
    raw: bytes,
    *,
    trust_store: TrustStore,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
    policy: EvidencePolicy | Relaxations,
    event_log: tuple[Event, ...] = (),
) -> Verdict:
    """Return the verdict on a file of evidence of any format.

    Args:
        raw: The file.
        trust_store: Whom to trust.
        collateral: All there is; what does not fit is ignored.
        now: When everything must be valid, with a time zone.
        checks: Gets a line for every check, also when one fails.
        policy: What the evidence must show; without reference values only what to
            accept on purpose, and the verdict says so.
        event_log: From `parse_event_log`; it must explain the runtime registers.

    Raises:
        FormatError: Malformed, or of no known format.
        VerificationError: Not genuine, or refused: see the lines.
        CannotVerifyError: Something is missing; nothing was found false.
    """
    if now.tzinfo is None:
        raise FormatError("the time to verify at has no time zone: give UTC")
    with checks.step("format", "a known attestation format, in its one encoding"):
        items = [(item, _parse(item)) for item in detect(raw)]
    claims = tuple(
        _verify(item, parsed, trust_store, collateral, now, checks)
        for item, parsed in items
    )
    claims = _bound(items[0][0].composite, claims, checks)
    explained = compare(event_log, claims[0].measurements) if event_log else []
    explained += _of_enclave(items[0][0].enclave, claims[0], policy)
    caveats = _appraise(claims, checks, policy, now, explained)
    return Verdict(claims, tuple(checks.lines), tuple(caveats), now)


def show(raw: bytes) -> list[Json]:
    """Return every field of the evidence in a file, without verifying anything."""
    return [_show(_parse(item)) for item in detect(raw)]


def _parse(item: Item) -> Any:
    parsers = {
        "dcap": parse_quote,
        "snp": parse_snp_report,
        "nitro": parse_nitro_document,
        "nvidia": parse_nvidia_report,
    }
    return parsers[item.kind](item.raw)


def _show(parsed: Any) -> Json:
    if not isinstance(parsed, Quote):
        kinds = {"SnpReport": "snp", "NitroDocument": "nitro"}
        kind = kinds.get(type(parsed).__name__, "nvidia-spdm-1.1")
        return {"format": kind, **parsed.as_dict()}
    header = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in asdict(parsed.header).items()
    }
    report = show_report(parsed.report)
    qe = show_report(parsed.qe_report)
    return {"format": parsed.format, "header": header, "report": report, "qe": qe}


def show_report(report: TdReport | SgxReport) -> Json:
    """Return the fields of an Intel report, in hex."""
    if isinstance(report, TdReport):
        return {name: value.hex() for name, value in asdict(report).items()}
    return {
        "cpu_svn": report.cpu_svn.hex(),
        "misc_select": report.misc_select.hex(),
        "attributes": report.attributes.hex(),
        "mrenclave": report.mrenclave.hex(),
        "mrsigner": report.mrsigner.hex(),
        "product_id": report.product_id,
        "isv_svn": report.isv_svn,
        "report_data": report.report_data.hex(),
    }


def _verify(
    item: Item,
    parsed: Any,
    trust_store: TrustStore,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> Claims:
    beside = item.certificates or collateral.certificates
    if item.kind == "dcap":
        return _verify_dcap(parsed, trust_store, collateral, now, checks)
    if item.kind == "nitro":
        claims = verify_nitro_document(parsed, trust_store, now=now, checks=checks)
        with checks.step("revocation", "no CA of the chain was revoked") as found:
            checked = check_revocation(claims.chain[2:], collateral.crls, now=now)
            found.append(_REVOCATION[checked])
        return claims
    if item.kind == "snp":  # the host's table may hold the CAs and no leaf
        given = item.certificates + collateral.certificates
        claims = verify_snp_report(
            parsed, trust_store, certificates=given, now=now, checks=checks
        )
        return _revocation_of_snp(claims, collateral, now, checks)
    claims = verify_nvidia_report(
        parsed, trust_store, certificates=beside, now=now, checks=checks
    )
    return device_status(
        parsed, claims, collateral, trust_store=trust_store, now=now, checks=checks
    )


def _bound(
    composite: Composite | None, claims: tuple[Claims, ...], checks: Checklist
) -> tuple[Claims, ...]:
    """Return the claims of a composite, the CPU's with what the workload bound."""
    if composite is None:
        return claims
    cpu, *devices = claims
    with checks.step("device-binding", "the CPU vouches for every device's report"):
        composite.check_binding(bytes.fromhex(cpu.report_data))
    with checks.step("device-nonce", "all devices answer one nonce"):
        if len({device.nonce for device in devices}) != 1:
            msg = "the devices answer different nonces: not all of them are fresh"
            raise VerificationError(msg, code="device-nonce")
    return replace(cpu, report_data=composite.bound.hex()), *devices


def _of_enclave(
    shown: Evidence | None, cpu: Claims, policy: EvidencePolicy | Relaxations
) -> list[Check]:
    """Return lines on what an enclave of ours shows beside its CPU's evidence.

    The report data covers keys, nonce, model and event log.
    """
    lines = []
    if shown:
        found, expected = cpu.report_data, shown.bound.hex()
        ok = found == expected
        code = "ok" if ok else "report-data-mismatch"
        lines.append(Check("enclave-binding", found, expected, ok=ok, code=code))
    if isinstance(policy, EvidencePolicy) and policy.require_events:
        names = [event.name for event in shown.event_log] if shown else []
        ok = set(policy.require_events) <= set(names)
        text, wanted = ", ".join(names) or "none", ", ".join(policy.require_events)
        code = "ok" if ok else "event-missing"
        lines.append(Check("events", text, wanted, ok=ok, code=code))
    return lines


def _verify_dcap(
    quote: Quote,
    trust_store: TrustStore,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> Claims:
    verified = verify_quote(quote, trust_store, now=now, checks=checks)
    chain = verified.certificates
    with checks.step("revocation", "no certificate of the chain was revoked") as found:
        revocation = check_revocation(chain, collateral.crls, now=now)
        found.append(_REVOCATION[revocation])
    tcb = tcb_status(
        quote, chain[0], collateral, trust_store=trust_store, now=now, checks=checks
    )
    unchecked: tuple[str, ...] = () if tcb else ("TCB status",)
    if not revocation or (tcb and not tcb.signer_checked):
        unchecked += ("revocation",)
    report, platform = quote.report, platform_of(chain[0])
    if isinstance(report, TdReport):
        measurements = report.measurements.as_dict() | {
            "mrseam": report.mrseam.hex(),
            "mrconfigid": report.mrconfigid.hex(),
            "mrowner": report.mrowner.hex(),
            "mrownerconfig": report.mrownerconfig.hex(),
            _SEAM_SIGNER: report.mrsignerseam.hex(),
            "seam_attributes": report.seam_attributes.hex(),
            "td_attributes": report.td_attributes.hex(),
            "xfam": report.xfam.hex(),
        }
        if isinstance(report, TdReport15):
            measurements["mr_servicetd"] = report.mr_servicetd.hex()
        debug = report.is_open_to_host
    else:
        measurements = {
            "mrenclave": report.mrenclave.hex(),
            "mrsigner": report.mrsigner.hex(),
            "attributes": report.attributes.hex(),
            "product_id": f"{report.product_id:04x}",
        }
        debug = bool(report.attributes[0] & _SGX_DEBUG)
    return Claims(
        format=quote.format,
        vendor="intel",
        simulated=verified.simulated,
        debug=debug,
        measurements=measurements,
        report_data=report.report_data.hex(),
        product=platform.fmspc.hex(),
        hardware_id=platform.ppid.hex(),
        svns=_svns(quote) | ({"tcb_evaluation": tcb.evaluation_number} if tcb else {}),
        chain=chain,
        tcb_status=tcb.status if tcb else "",
        tcb_date=tcb.tcb_date if tcb else "",
        advisories=tcb.advisories if tcb else (),
        unchecked=unchecked,
    )


def _svns(quote: Quote) -> dict[str, int]:
    report = quote.report
    if isinstance(report, SgxReport):
        return {"isv_svn": report.isv_svn, "product_id": report.product_id}
    return {f"tee_tcb_svn{i}": svn for i, svn in enumerate(report.tee_tcb_svn) if svn}


def _revocation_of_snp(
    claims: Claims, collateral: Collateral, now: datetime, checks: Checklist
) -> Claims:
    """AMD's lists are about its signing keys; keys of chips are in none."""
    with checks.step("revocation", "AMD's signing key was not revoked") as found:
        checked = check_revocation(claims.chain[1:], collateral.crls, now=now)
        found.append(_REVOCATION[checked])
    return replace(claims, unchecked=()) if checked else claims


def _appraise(
    claims: tuple[Claims, ...],
    checks: Checklist,
    policy: EvidencePolicy | Relaxations,
    now: datetime,
    explained: list[Check],
) -> list[str]:
    """Add the lines of the appraisal, return caveats; all failures are reported."""
    if isinstance(policy, EvidencePolicy):
        relaxations, wanted = policy.relaxations, policy.check(claims, now=now)
    else:
        relaxations, wanted = policy, []
    lines = [line for c in claims for line in _appraisal(c, relaxations, now)]
    lines += wanted + explained
    checks.lines += lines
    failed = [line for line in lines if not line.ok]
    false = [line for line in failed if line.code != "collateral-missing"]
    if false:
        text = "; ".join(f"{c.name} is {c.found}, expected {c.expected}" for c in false)
        raise AppraisalError(f"the evidence was refused: {text}", code=false[0].code)
    if failed:
        msg = (
            f"the evidence is genuine, with {failed[0].found}: give the collateral, or "
            "accept that with allow_unchecked_collateral (--allow-unchecked-collateral)"
        )
        raise CannotVerifyError(msg, code="collateral-missing")
    caveats = [
        f"not checked: {' and '.join(c.unchecked)}" for c in claims if c.unchecked
    ]
    if not isinstance(policy, EvidencePolicy):
        return [*caveats, NO_REFERENCE]
    open_ = [c for c in claims if policy.uncompared(c) and not is_compared(c)]
    return caveats + [_uncompared(c, policy) for c in open_]


def _uncompared(claims: Claims, policy: EvidencePolicy) -> str:
    names = policy.uncompared(claims)
    more = len(names) - _MOST_NAMED
    listed = ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"not compared in {claims.format}: {listed}"


def _appraisal(claims: Claims, relaxations: Relaxations, now: datetime) -> list[Check]:
    lines = []
    if claims.debug is not None:
        lines.append(
            Check(
                name="debug",
                found="on" if claims.debug else "off",
                expected="on or off" if relaxations.allow_debug else "off",
                ok=not claims.debug or relaxations.allow_debug,
                code="debug-enclave" if claims.debug else "ok",
            )
        )
    if claims.tcb_status:
        lines.append(tcb_line(claims, relaxations, now))
    if signer := claims.measurements.get(_SEAM_SIGNER):
        intels = not signer.strip("0")
        found, code = ("Intel's", "ok") if intels else (signer, "tdx-module-unknown")
        lines.append(Check("tdx-module", found, "Intel's", ok=intels, code=code))
    unchecked = " and ".join(claims.unchecked)
    anything = relaxations.allow_unchecked_collateral
    lines.append(
        Check(
            name="collateral",
            found=f"unknown {unchecked}" if unchecked else "all looked up",
            expected="anything" if anything else "all looked up",
            ok=not unchecked or anything,
            code="collateral-missing" if unchecked else "ok",
        )
    )
    return lines
