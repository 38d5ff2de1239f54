"""The policy of a relying party, from a TOML file. Pure.

    allow_tcb_statuses = ["SWHardeningNeeded"]
    allow_advisories = ["INTEL-SA-00615"]
    allow_out_of_date_days = 30          # since the firmware's TCB level was new
    report_data = "…"                    # or allow_any_report_data = true
    nonce = "…"                          # for formats with a field for it
    max_age_s = 300                      # refuses formats that do not say when
    products = ["Milan"]                 # of Intel the FMSPC
    hardware_ids = ["…"]                 # chip id, of Intel the PPID
    require_gpu = true
    require_events = ["keys", "model"]   # of an enclave's own event log
    reference_value_signers = ["…"]      # instead of tables of measurements

    [measurements."snp-v3"]              # a table for every format to accept
    measurement = ["…", "…"]             # reference values, any of them

    [minimum_svns."snp-v3"]
    snp = 8

Unknown names are refused, and a policy without reference values, since it would accept
anything. All failures are reported. A register that no table names is not compared; the
verdict says which. Signed reference values: see `privacy.tee.reference_values`.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from privacy.errors import FormatError
from privacy.tee.checks import Check
from privacy.tee.claims import Claims
from privacy.tee.runtime_log import EVENTS
from privacy.tee.tcb import OUT_OF_DATE, REVOKED, STATUSES, UP_TO_DATE

_MAX_BYTES = 1 << 20
_MAX_DAYS = 3650
_RELAXATIONS = {
    "allow_debug": bool,
    "allow_unchecked_collateral": bool,
    "allow_any_report_data": bool,
    "allow_tcb_statuses": list,
    "allow_advisories": list,
    "allow_out_of_date_days": int,
}
_REQUIREMENTS = {
    "report_data": str,
    "nonce": str,
    "max_age_s": int,
    "products": list,
    "hardware_ids": list,
    "require_gpu": bool,
    "require_events": list,
    "reference_value_signers": list,
    "measurements": dict,
    "minimum_svns": dict,
}


@dataclass(frozen=True, slots=True)
class Relaxations:
    """What a relying party accepts on purpose; nothing by default.

    Attributes:
        allow_debug: An environment its host can look into.
        allow_unchecked_collateral: Firmware and revocation of unknown status.
        allow_any_report_data: Evidence whose report data is compared with nothing.
        allow_tcb_statuses: Names of Intel's beyond `UpToDate`, except `Revoked`.
        allow_advisories: Security advisories that may apply to the platform.
        allow_out_of_date_days: Accept `OutOfDate` this long after the day that the
            oldest TCB level behind is of.
    """

    allow_debug: bool = False
    allow_unchecked_collateral: bool = False
    allow_any_report_data: bool = False
    allow_tcb_statuses: tuple[str, ...] = ()
    allow_advisories: tuple[str, ...] = ()
    allow_out_of_date_days: int = 0

    def __post_init__(self) -> None:
        """Refuse names that no platform may have."""
        if not 0 <= self.allow_out_of_date_days <= _MAX_DAYS:
            msg = f"allow_out_of_date_days is not 0 to {_MAX_DAYS}"
            raise FormatError(msg, code="bad-policy")
        for name in self.allow_tcb_statuses:
            if name not in STATUSES or name == REVOKED:
                allowed = ", ".join(s for s in STATUSES if s != REVOKED)
                msg = f"{name!r} is no TCB status to allow, expected one of {allowed}"
                raise FormatError(msg, code="bad-policy")


@dataclass(frozen=True, slots=True)
class EvidencePolicy:
    """What evidence must show.

    Attributes:
        relaxations: What is accepted on purpose.
        measurements: By format and register, the reference values (hex).
        minimum_svns: By format and name.
        report_data: Hex; empty only if `allow_any_report_data`.
        nonce: Hex; compared where the format has a nonce and this is given.
        max_age_s: Oldest evidence, in seconds, of formats that say when; 0 for any.
        products: Accepted ones; empty for any.
        hardware_ids: Accepted ones; empty for any.
        require_gpu: One piece of evidence must be of a GPU.
        require_events: An enclave must show these in its own event log.
        reference_value_signers: Key ids of those whose manifest gives the reference
            values; then `measurements` is empty until `with_reference_values`.
    """

    relaxations: Relaxations
    measurements: dict[str, dict[str, tuple[str, ...]]]
    minimum_svns: dict[str, dict[str, int]] = field(default_factory=dict)
    report_data: str = ""
    nonce: str = ""
    max_age_s: int = 0
    products: tuple[str, ...] = ()
    hardware_ids: tuple[str, ...] = ()
    require_gpu: bool = False
    require_events: tuple[str, ...] = ()
    reference_value_signers: tuple[str, ...] = ()

    def with_reference_values(
        self, measurements: dict[str, dict[str, tuple[str, ...]]]
    ) -> "EvidencePolicy":
        """Return the policy with reference values from a manifest."""
        return replace(self, measurements=measurements)

    def uncompared(self, claims: Claims) -> list[str]:
        """Return the registers with a value that no reference value is for."""
        table = self.measurements.get(claims.format, {})
        found = claims.measurements.items()
        return [name for name, v in found if name not in table and v.strip("0")]

    def check(self, claims: Sequence[Claims], *, now: datetime) -> list[Check]:
        """Return a line for everything the policy asks for."""
        lines = [line for c in claims for line in self._lines(c, now)]
        if self.require_gpu:  # beside a workload, not instead of one
            formats = [c.format for c in claims if c.format in self.measurements]
            text, wanted = _any(formats), _any(sorted(self.measurements))
            code = "format-refused"
            lines.append(_line("workload", text, wanted, code, ok=bool(formats)))
            found = [c.product for c in claims if c.is_gpu]
            text = ", ".join(found) or "no GPU"
            lines.append(_line("gpu", text, "a GPU", "gpu-missing", ok=bool(found)))
        return lines

    def _lines(self, c: Claims, now: datetime) -> Iterator[Check]:
        formats = sorted(self.measurements)
        # Devices are compared with NVIDIA's own reference values: see `gpu`.
        ok = c.format in self.measurements or (
            self.require_gpu and c.vendor == "nvidia"
        )
        yield _line("format", c.format, _any(formats), "format-refused", ok=ok)
        for name, values in self.measurements.get(c.format, {}).items():
            value = c.measurements.get(name, "")
            code, ok = "measurement-mismatch", value in values
            yield _line(name, value or "nothing", _any(values), code, ok=ok)
        for name, least in self.minimum_svns.get(c.format, {}).items():
            svn = c.svns.get(name, -1)
            code, text = "svn-too-low", f"at least {least}"
            yield _line(f"svn {name}", str(svn), text, code, ok=svn >= least)
        yield from self._binding(c)
        if listed := self.products:
            ok, code = c.product in listed, "product-refused"
            yield _line("product", c.product, _any(listed), code, ok=ok)
        if listed := self.hardware_ids:
            ok, code = c.hardware_id in listed, "hardware-id-refused"
            yield _line("hardware-id", c.hardware_id, _any(listed), code, ok=ok)
        if self.max_age_s:
            age = None if c.made_at is None else now - c.made_at
            ok = age is not None and age <= timedelta(seconds=self.max_age_s)
            text = f"within {self.max_age_s} s"
            found = "unknown: no time in it" if age is None else str(age)
            yield _line("age", found, text, "evidence-too-old", ok=ok)
        listed = self.relaxations.allow_advisories
        ok = set(c.advisories) <= set(listed)
        text = ", ".join(c.advisories) or "none"
        yield _line("advisories", text, _any(listed), "advisory-refused", ok=ok)

    def _binding(self, c: Claims) -> Iterator[Check]:
        if not self.relaxations.allow_any_report_data and c.vendor != "nvidia":
            ok = c.report_data == self.report_data
            text = c.report_data or "nothing"
            yield _line(
                "report-data", text, self.report_data, "report-data-mismatch", ok=ok
            )
        if self.nonce and c.vendor in {"aws", "nvidia"}:
            ok, text = c.nonce == self.nonce, c.nonce or "nothing"
            yield _line("nonce", text, self.nonce, "nonce-mismatch", ok=ok)


def _line(name: str, found: str, expected: str, code: str, *, ok: bool) -> Check:
    return Check(name, found, expected, ok=ok, code="ok" if ok else code)


def _any(values: Sequence[str]) -> str:
    return " or ".join(values) or "none"


def tcb_line(claims: Claims, relaxations: Relaxations, now: datetime) -> Check:
    """Return the line on a platform's TCB status."""
    good = (UP_TO_DATE, *relaxations.allow_tcb_statuses)
    found = " ".join((claims.tcb_status, *claims.advisories))
    expected, ok = _any(good), claims.tcb_status in good
    days = relaxations.allow_out_of_date_days
    if days and claims.tcb_status == OUT_OF_DATE:
        level = datetime.fromisoformat(claims.tcb_date)
        found += f" of {level.date()}"
        expected += f" or {OUT_OF_DATE} for {days} days"
        ok = ok or now - level <= timedelta(days=days)
    return _line("tcb-status", found, expected, "tcb-status", ok=ok)


def parse_policy(raw: bytes) -> EvidencePolicy:
    """Return the policy in a TOML file.

    Raises:
        FormatError: Not TOML, unknown names, values of other types, or a policy that
            would accept anything.
    """
    return policy_of(parse_toml(raw, what="the policy"))


def policy_of(said: dict[str, Any]) -> EvidencePolicy:
    """Return the policy that a TOML file says.

    Raises:
        FormatError: See `parse_policy`.
    """
    value = dict(said)
    for name, part in said.items():
        kind = (_RELAXATIONS | _REQUIREMENTS).get(name)
        if kind is None or type(part) is not kind:
            wanted = "unknown" if kind is None else f"no {kind.__name__}"
            raise FormatError(f"{name} in the policy is {wanted}", code="bad-policy")
        if kind is list:
            value[name] = _texts(part, name)
        if name in {"report_data", "nonce"}:
            value[name] = str(part).lower()
    policy = EvidencePolicy(
        relaxations=Relaxations(
            **{k: value.pop(k) for k in _RELAXATIONS.keys() & value.keys()}
        ),
        measurements=reference_values(value.pop("measurements", {})),
        **value,
    )
    _check_policy(policy)
    return policy


def parse_platform_policy(raw: bytes) -> EvidencePolicy:
    """Return a relying party's policy on the machine below an enclave.

    Args:
        raw: TOML as for `privacy attest verify --policy`; `report_data` in it would be
            overruled by what the enclave must vouch for.

    Raises:
        FormatError: It is no policy, or it has no reference values of its own.
    """
    policy = parse_policy(raw)
    if policy.reference_value_signers:
        msg = (
            "the platform policy names signers of reference values: give the values "
            "themselves, in tables [measurements.FORMAT]"
        )
        raise FormatError(msg, code="bad-policy")
    return policy


def parse_toml(raw: bytes, *, what: str) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises:
        FormatError: Not TOML, or more than 1 MiB.
    """
    if len(raw) > _MAX_BYTES:
        raise FormatError(f"{what} has more than 1 MiB", code="too-large")
    try:
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as exc:
        raise FormatError(f"{what} is not TOML: {exc}", code="bad-policy") from exc


def reference_values(value: Any) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return tables of reference values by format and register, in lowercase hex.

    Raises:
        FormatError: Not such tables, or an empty one.
    """
    tables = value if isinstance(value, dict) else {"measurements": value}
    return {
        form: {name: _values(v, name) for name, v in _table(table, form).items()}
        for form, table in tables.items()
    }


def _texts(value: Any, name: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        msg = f"{name} in the policy is not a list of texts"
        raise FormatError(msg, code="bad-policy")
    return tuple(texts)


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        msg = f"{name} in the policy is not a table with values"
        raise FormatError(msg, code="bad-policy")
    return value


def _values(value: Any, name: str) -> tuple[str, ...]:
    texts = _texts([value] if isinstance(value, str) else value, name)
    for text in texts:
        _check_hex(text, name)
    return tuple(text.lower() for text in texts)


def _check_hex(text: str, name: str) -> None:
    try:
        bytes.fromhex(text)
    except ValueError as exc:
        msg = f"{name} in the policy is not hex"
        raise FormatError(msg, code="bad-policy") from exc


def _check_policy(policy: EvidencePolicy) -> None:
    if bool(policy.measurements) == bool(policy.reference_value_signers):
        msg = (
            "the policy has no measurements: it would accept any workload; give "
            "measurements or reference_value_signers, not both"
        )
        raise FormatError(msg, code="bad-policy")
    if bool(policy.report_data) == policy.relaxations.allow_any_report_data:
        msg = "the policy must give report_data, or allow_any_report_data = true"
        raise FormatError(msg, code="bad-policy")
    if unknown := set(policy.require_events) - EVENTS:
        msg = (
            f"the policy requires the event {min(unknown)!r}, expected one of "
            f"{', '.join(sorted(EVENTS))}"
        )
        raise FormatError(msg, code="bad-policy")
    _check_hex(policy.report_data, "report_data")
    _check_hex(policy.nonce, "nonce")
    for form, table in policy.minimum_svns.items():
        good = all(type(v) is int and v >= 0 for v in _table(table, form).values())
        known = form in policy.measurements or policy.reference_value_signers
        if not known or not good:
            msg = f"minimum_svns of {form} are not numbers, or no format is accepted"
            raise FormatError(msg, code="bad-policy")
