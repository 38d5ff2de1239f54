"""Policy: whether genuine evidence is evidence of what the relying party wants. Pure.

Every check is one line with what was found and what was expected; all are made, and
all failures are reported together. A value that the policy does not give is a failure,
never "not checked": an empty policy accepts nothing.

Not appraised here: TCB status and revocation (see `privacy.tee.attest`, whose lines a
job's result has, too), XFAM, the owner's fields and the TD attributes beyond debug
and migration.
"""

from dataclasses import asdict, dataclass

from privacy.encoding import Json
from privacy.errors import AppraisalError
from privacy.tee.checks import Check
from privacy.tee.parse import (
    REGISTER_BYTES,
    REGISTERS,
    Measurements,
    TdReport,
    TdxQuote,
)
from privacy.tee.verify import VerifiedEvidence

_REPORT_DATA_BYTES = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """What evidence must show; what is left out is never found acceptable.

    Attributes:
        mrtd: Reference value, 48 bytes, as are `rtmr0` to `rtmr3`.
        report_data: What the enclave must vouch for, 64 bytes.
        allow_debug: Accept a trust domain its host can look into.
        allow_simulated: Accept evidence that anyone can make.
    """

    mrtd: bytes = b""
    rtmr0: bytes = b""
    rtmr1: bytes = b""
    rtmr2: bytes = b""
    rtmr3: bytes = b""
    report_data: bytes = b""
    allow_debug: bool = False
    allow_simulated: bool = False

    @classmethod
    def expecting(
        cls,
        measurements: Measurements,
        report_data: bytes,
        *,
        allow_debug: bool = False,
        allow_simulated: bool = False,
    ) -> "Policy":
        """Return the policy that asks for exactly these registers and report data."""
        return cls(
            **{name: getattr(measurements, name) for name in REGISTERS},
            report_data=report_data,
            allow_debug=allow_debug,
            allow_simulated=allow_simulated,
        )


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """Accepted evidence: what runs there, and how far that can be relied on.

    Attributes:
        simulated: The evidence proves nothing; the policy allowed that.
        tcb_status: Of the platform, in the vendor's words; empty if not looked up.
        advisories: Security advisories that apply to the platform.
        verified_at: RFC 3339, UTC.
        checks: Every line of the appraisal.
    """

    simulated: bool
    verified_at: str
    measurements: Measurements
    report_data: bytes
    checks: tuple[Check, ...]
    tcb_status: str = ""
    advisories: tuple[str, ...] = ()

    def as_dict(self) -> Json:
        """Return the result JSON-ready, bytes in hex."""
        return {
            "simulated": self.simulated,
            "tcb_status": self.tcb_status,
            "advisories": list(self.advisories),
            "verified_at": self.verified_at,
            "measurements": self.measurements.as_dict(),
            "report_data": self.report_data.hex(),
            "checks": [asdict(check) for check in self.checks],
        }


class PolicyRefusal(AppraisalError):  # noqa: N818 - it says what happened
    """The policy refused genuine evidence.

    Attributes:
        checks: Every line of the appraisal, the good ones too.
    """

    def __init__(self, checks: tuple[Check, ...]) -> None:
        """Name everything that is false; the code is the first one's."""
        failed = [c for c in checks if not c.ok and c.code != "collateral-missing"]
        lines = "; ".join(
            f"{c.name} is {c.found[:16]}, expected {c.expected[:16]}" for c in failed
        )
        super().__init__(f"the evidence was refused: {lines}", code=failed[0].code)
        self.checks = checks


def appraise(verified: VerifiedEvidence[TdxQuote], policy: Policy) -> AttestationResult:
    """Return the attestation result if the evidence meets the policy in every point.

    Raises:
        PolicyRefusal: It does not; an `AppraisalError` with every line in `checks`.
    """
    report = verified.quote.report
    checks = (
        _is_hardware(verified, policy),
        _is_not_debug(report, policy),
        _is_intels_module(report),
        *(
            _equals(name, getattr(report, name), getattr(policy, name), REGISTER_BYTES)
            for name in REGISTERS
        ),
        _equals(
            "report-data", report.report_data, policy.report_data, _REPORT_DATA_BYTES
        ),
    )
    if not all(check.ok for check in checks):
        raise PolicyRefusal(checks)
    return AttestationResult(
        simulated=verified.simulated,
        verified_at=verified.verified_at.isoformat(),
        measurements=report.measurements,
        report_data=report.report_data,
        checks=checks,
    )


def _is_hardware(verified: VerifiedEvidence[TdxQuote], policy: Policy) -> Check:
    return Check(
        name="origin",
        found="simulated" if verified.simulated else "hardware",
        expected="hardware or simulated" if policy.allow_simulated else "hardware",
        ok=not verified.simulated or policy.allow_simulated,
        code="simulated-evidence",
    )


def _is_not_debug(report: TdReport, policy: Policy) -> Check:
    debug = report.is_open_to_host
    return Check(
        name="debug",
        found="on" if debug else "off",
        expected="on or off" if policy.allow_debug else "off",
        ok=not debug or policy.allow_debug,
        code="debug-enclave",
    )


def _is_intels_module(report: TdReport) -> Check:
    found = report.mrsignerseam + report.seam_attributes
    return Check(
        name="tdx-module",
        found="Intel's" if not any(found) else found.hex(),
        expected="Intel's",
        ok=not any(found),
        code="tdx-module-unknown",
    )


def _equals(name: str, found: bytes, expected: bytes, size: int) -> Check:
    given = len(expected) == size
    return Check(
        name=name,
        found=found.hex(),
        expected=expected.hex() if given else "nothing: the policy has no value",
        ok=given and found == expected,
        code=f"{name}-mismatch" if given else "no-reference-value",
    )
