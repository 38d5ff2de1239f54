"""The policy of a relying party, from a TOML file. Pure.

    allow_tcb_statuses = ["SWHardeningNeeded"]
    allow_advisories = ["INTEL-SA-00615"]
    report_data = "…"                    # or allow_any_report_data = true
    nonce = "…"                          # for formats with a field for it
    max_age_s = 300                      # for formats that say when
    products = ["Milan"]
    hardware_ids = ["…"]
    require_gpu = true

    [measurements."snp-v3"]              # a table for every format to accept
    measurement = ["…", "…"]             # reference values, any of them

    [minimum_svns."snp-v3"]
    snp = 8

Unknown names are refused, and a policy without reference values, since it would accept
anything. All failures are reported. A register that no table names is not compared.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from privacy.errors import FormatError
from privacy.tee.checks import Check
from privacy.tee.claims import Claims
from privacy.tee.tcb import REVOKED, STATUSES, UP_TO_DATE

_MAX_BYTES = 1 << 20
_RELAXATIONS = {
    "allow_debug": bool,
    "allow_unchecked_collateral": bool,
    "allow_any_report_data": bool,
    "allow_tcb_statuses": list,
    "allow_advisories": list,
}
_REQUIREMENTS = {
    "report_data": str,
    "nonce": str,
    "max_age_s": int,
    "products": list,
    "hardware_ids": list,
    "require_gpu": bool,
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
    """

    allow_debug: bool = False
    allow_unchecked_collateral: bool = False
    allow_any_report_data: bool = False
    allow_tcb_statuses: tuple[str, ...] = ()
    allow_advisories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse names that no platform may have."""
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

    def check(self, claims: Sequence[Claims], *, now: datetime) -> list[Check]:
        """Return a line for everything the policy asks for."""
        lines = [line for c in claims for line in self._lines(c, now)]
        if self.require_gpu:
            found = [c.product for c in claims if c.vendor == "nvidia"]
            text = ", ".join(found) or "no GPU"
            lines.append(_line("gpu", text, "a GPU", "gpu-missing", ok=bool(found)))
        return lines

    def _lines(self, c: Claims, now: datetime) -> Iterator[Check]:
        formats = sorted(self.measurements)
        ok = c.format in self.measurements
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
        for name, listed, one in (
            ("product", self.products, c.product),
            ("hardware-id", self.hardware_ids, c.hardware_id),
        ):
            if listed:
                code = f"{name}-refused"
                yield _line(name, one, _any(listed), code, ok=one in listed)
        if self.max_age_s and c.made_at is not None:
            ok = now - c.made_at <= timedelta(seconds=self.max_age_s)
            text = f"within {self.max_age_s} s"
            yield _line("age", f"{now - c.made_at}", text, "evidence-too-old", ok=ok)
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


def tcb_line(status: str, advisories: Sequence[str], allowed: Sequence[str]) -> Check:
    """Return the line on a platform's TCB status."""
    good = (UP_TO_DATE, *allowed)
    found = " ".join((status, *advisories))
    return _line("tcb-status", found, _any(good), "tcb-status", ok=status in good)


def parse_policy(raw: bytes) -> EvidencePolicy:
    """Return the policy in a TOML file.

    Raises:
        FormatError: Not TOML, unknown names, values of other types, or a policy that
            would accept anything.
    """
    if len(raw) > _MAX_BYTES:
        raise FormatError("the policy has more than 1 MiB", code="too-large")
    try:
        value = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as exc:
        raise FormatError(f"the policy is not TOML: {exc}", code="bad-policy") from exc
    for name, part in value.items():
        kind = (_RELAXATIONS | _REQUIREMENTS).get(name)
        if kind is None or type(part) is not kind:
            wanted = "unknown" if kind is None else f"no {kind.__name__}"
            raise FormatError(f"{name} in the policy is {wanted}", code="bad-policy")
        if kind is list:
            value[name] = _texts(part, name)
        if name in {"report_data", "nonce"}:
            value[name] = str(part).lower()
    tables = {k: _table(v, k) for k, v in value.pop("measurements", {}).items()}
    policy = EvidencePolicy(
        relaxations=Relaxations(
            **{k: value.pop(k) for k in _RELAXATIONS.keys() & value.keys()}
        ),
        measurements={
            form: {name: _values(v, name) for name, v in table.items()}
            for form, table in tables.items()
        },
        **value,
    )
    _check_policy(policy)
    return policy


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
    if not policy.measurements:
        msg = "the policy has no measurements: it would accept any workload"
        raise FormatError(msg, code="bad-policy")
    if bool(policy.report_data) == policy.relaxations.allow_any_report_data:
        msg = "the policy must give report_data, or allow_any_report_data = true"
        raise FormatError(msg, code="bad-policy")
    _check_hex(policy.report_data, "report_data")
    _check_hex(policy.nonce, "nonce")
    for form, table in policy.minimum_svns.items():
        good = all(type(v) is int and v >= 0 for v in _table(table, form).values())
        if form not in policy.measurements or not good:
            msg = f"minimum_svns of {form} are not numbers, or no format is accepted"
            raise FormatError(msg, code="bad-policy")
