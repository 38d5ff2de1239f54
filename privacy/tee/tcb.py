"""Whether an Intel platform's firmware is up to date, as Intel says. Pure.

    1. TCB info and QE identity are signed by Intel's TCB signing key, whose
       certificate chains to the pinned root and was not revoked, and are current.
    2. The quoting enclave is the one of the QE identity.
    3. The TDX module is one of the TCB info's.
    4. The first TCB level that the platform reaches says its status; the module's and
       the quoting enclave's levels can only worsen it. TD reports 1.5 name the TCB at
       launch and the current one: the worse status counts.

What was not given is not an error here: `tcb_status` returns None.

Source: Intel PCS API v4, "TCB info" and "enclave identity", with their algorithms.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from privacy.encoding import Json, parse_object
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.tee.chain import Rules, load_certificate, public_key, verify_chain
from privacy.tee.checks import Checklist
from privacy.tee.collateral import Collateral, SignedJson
from privacy.tee.parse import Quote, SgxReport, TdReport, TdReport15
from privacy.tee.pck import COMPONENTS, Platform, platform_of
from privacy.tee.revocation import check_revocation
from privacy.tee.signature import check_raw_signature
from privacy.tee.trust import TrustStore

UP_TO_DATE, OUT_OF_DATE, REVOKED = "UpToDate", "OutOfDate", "Revoked"
STATUSES = (
    UP_TO_DATE,
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    OUT_OF_DATE,
    "OutOfDateConfigurationNeeded",
    REVOKED,
)
_SIGNER_NAME = "SGX TCB Signing"
_RULES = Rules(
    names=("root CA", "root CA", "TCB signing certificate"),
    curve=ec.SECP256R1,
    digest=SHA256,
)
_LIMIT = 1 << 20

Signer = tuple[ec.EllipticCurvePublicKey, bool]
"""A key, and whether current CRLs speak for it."""


@dataclass(frozen=True, slots=True)
class TcbStatus:
    """What Intel says of a platform.

    Attributes:
        status: One of `STATUSES`.
        advisories: Names of the security advisories that apply, sorted.
        tcb_date: Of the oldest level reached that is not up to date, else of the
            oldest, RFC 3339.
        evaluation_number: Of the TCB info; newer ones are higher.
        signer_checked: Current CRLs speak for the key that signed all this.
    """

    status: str
    advisories: tuple[str, ...]
    tcb_date: str
    evaluation_number: int
    signer_checked: bool


def tcb_status(
    quote: Quote,
    pck: x509.Certificate,
    collateral: Collateral,
    *,
    trust_store: TrustStore,
    now: datetime,
    checks: Checklist,
) -> TcbStatus | None:
    """Return what Intel's statements say of the platform; None if they are not given.

    Args:
        quote: Already verified.
        pck: The quote's PCK certificate, already checked.
        collateral: All there is; statements about other platforms are ignored.
        trust_store: Whom to trust.
        now: When the statements must be current.
        checks: Gets a line for every step.

    Raises:
        VerificationError: A statement is forged, or rules the platform out.
        CannotVerifyError: Statements are there, but none is current.
    """
    try:
        return _tcb_status(quote, pck, collateral, trust_store, now, checks)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        msg = f"a statement in the collateral has another shape ({type(exc).__name__})"
        raise FormatError(msg, code="unsupported-collateral") from exc


def _tcb_status(
    quote: Quote,
    pck: x509.Certificate,
    collateral: Collateral,
    trust_store: TrustStore,
    now: datetime,
    checks: Checklist,
) -> TcbStatus | None:
    platform = platform_of(pck)
    tee, qe = ("SGX", "QE") if isinstance(quote.report, SgxReport) else ("TDX", "TD_QE")
    infos = [s for s in _parsed(collateral.tcb_infos) if _is_of(s[1], tee, platform)]
    identities = [s for s in _parsed(collateral.qe_identities) if s[1].get("id") == qe]
    if not infos or not identities:
        return None
    with checks.step("tcb-signer", "Intel's TCB signing key under the pinned root"):
        signers = _signers(collateral, trust_store, now)
    with checks.step("tcb-info", f"signed, current, of {tee} {platform.fmspc.hex()}"):
        info, info_checked = _newest(infos, signers, now=now, version=3)
    with checks.step("qe-identity-info", f"signed, current, of {qe}"):
        identity, qe_checked = _newest(identities, signers, now=now, version=2)
    with checks.step("qe-level", "the quoting enclave is the one Intel describes"):
        qe_level = _qe_level(quote.qe_report, identity)
    levels, statuses = [qe_level], []
    with checks.step("tcb-level", "the platform reaches a level that Intel lists"):
        for report in _moments(quote.report):
            others = [qe_level]
            if isinstance(report, TdReport):
                others += _module_levels(report, info)
            own = _platform_level(report, platform, info)
            statuses.append(_converge(own.status, [x.status for x in others]))
            levels += [own, *others]
    behind = [level for level in levels if level.status != UP_TO_DATE]
    return TcbStatus(
        status=max(statuses, key=STATUSES.index),
        advisories=tuple(sorted({a for level in levels for a in level.advisories})),
        tcb_date=min(level.tcb_date for level in behind or levels),
        evaluation_number=int(info["tcbEvaluationDataNumber"]),
        signer_checked=info_checked and qe_checked,
    )


def _moments(report: TdReport | SgxReport) -> list[TdReport | SgxReport]:
    """Return the report as of the guest's launch and, in version 1.5, as of now."""
    if isinstance(report, TdReport15):
        return [report, replace(report, tee_tcb_svn=report.tee_tcb_svn2)]
    return [report]


def _parsed(statements: Iterable[SignedJson]) -> list[tuple[SignedJson, Json]]:
    what = "statement in the collateral"
    return [(s, parse_object(s.body, what=what, limit=_LIMIT)) for s in statements]


def _is_of(info: Json, tee: str, platform: Platform) -> bool:
    hexes = (str(info.get(name)).upper() for name in ("fmspc", "pceId"))
    found = (info.get("id"), *hexes)
    fmspc, pceid = platform.fmspc.hex().upper(), platform.pceid.hex().upper()
    return found == (tee, fmspc, pceid)


def _signers(
    collateral: Collateral, trust_store: TrustStore, now: datetime
) -> list[Signer]:
    """Return the keys that sign statements: Intel renews its key, folders keep both."""
    found: list[Signer] = []
    refused: VerificationError | None = None
    root = trust_store.intel
    for der in (*collateral.certificates, *trust_store.intel_tcb_signing):
        names = load_certificate(der, _RULES.names[2]).subject
        common = names.get_attributes_for_oid(NameOID.COMMON_NAME)
        if not any(str(name.value).endswith(_SIGNER_NAME) for name in common):
            continue
        try:
            chain = verify_chain([der, root], roots=[root], rules=_RULES, now=now)
        except VerificationError as exc:
            refused = exc
            continue
        checked = check_revocation(chain, collateral.crls, now=now)
        found.append((public_key(chain[0]), checked))
    if found:
        return found
    if refused is not None:
        raise refused
    msg = f"there is no certificate of {_SIGNER_NAME} in the collateral"
    raise CannotVerifyError(msg, code="collateral-missing")


def _newest(
    statements: list[tuple[SignedJson, Json]],
    signers: list[Signer],
    *,
    now: datetime,
    version: int,
) -> tuple[Json, bool]:
    """Return the current statement with the highest number, and its signer's state."""
    current, refused = [], None
    for signed, value in statements:
        try:
            checked = _check_signed(signed, signers)
        except VerificationError as exc:  # of a signer whose time is over, or forged
            refused = exc
            continue
        if value.get("version") != version:
            msg = f"a statement has version {value.get('version')}, expected {version}"
            raise FormatError(msg, code="unsupported-collateral")
        if _time(value["issueDate"]) <= now <= _time(value["nextUpdate"]):
            current.append((value, checked))
    if current:
        return max(current, key=lambda one: int(one[0]["tcbEvaluationDataNumber"]))
    if refused is not None:
        raise refused
    value = statements[0][1]
    msg = (
        f"the collateral is for {value['issueDate']} to {value['nextUpdate']}, not "
        f"{now.isoformat()}: get a newer one"
    )
    raise CannotVerifyError(msg, code="collateral-expired")


def _check_signed(signed: SignedJson, signers: list[Signer]) -> bool:
    """Return whether revocation is known of the signer of a statement."""
    *others, (last, last_checked) = signers
    what = "a statement in the collateral was not signed by Intel: get it again"
    for key, checked in others:
        with contextlib.suppress(VerificationError):
            check_raw_signature(key, signed.signature, signed.body, code="", what=what)
            return checked
    code = "collateral-signature"
    check_raw_signature(last, signed.signature, signed.body, code=code, what=what)
    return last_checked


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


@dataclass(frozen=True, slots=True)
class _Level:
    status: str
    advisories: tuple[str, ...]
    tcb_date: str

    @classmethod
    def of(cls, value: Json) -> "_Level":
        status = value["tcbStatus"]
        if status not in STATUSES:
            msg = f"the collateral names a TCB status that is not known: {status!r}"
            raise VerificationError(msg, code="tcb-status-unknown")
        advisories = tuple(value.get("advisoryIDs", ()))
        return cls(status, advisories, value["tcbDate"])


def _masked(found: bytes, mask: str) -> bytes:
    return bytes(f & m for f, m in zip(found, bytes.fromhex(mask), strict=True))


def _qe_level(qe: SgxReport, identity: Json) -> _Level:
    misc = _masked(qe.misc_select, identity["miscselectMask"])
    attributes = _masked(qe.attributes, identity["attributesMask"])
    found = misc, attributes, qe.mrsigner, qe.product_id
    names = "miscselect", "attributes", "mrsigner"
    expected = *(bytes.fromhex(identity[n]) for n in names), identity["isvprodid"]
    if found != expected:
        msg = "the quoting enclave is not the one that Intel's QE identity describes"
        raise VerificationError(msg, code="qe-identity")
    return _first(identity["tcbLevels"], qe.isv_svn, "quoting enclave")


def _first(levels: list[Json], isv_svn: int, what: str) -> _Level:
    for level in levels:
        if isv_svn >= level["tcb"]["isvsvn"]:
            return _Level.of(level)
    msg = f"the {what} has version {isv_svn}, below every level that Intel lists"
    raise VerificationError(msg, code="tcb-level-missing")


def _module_levels(report: TdReport, info: Json) -> list[_Level]:
    """Return the level of the TDX module; none for the first generation."""
    minor, major = report.tee_tcb_svn[:2]
    module, levels = info["tdxModule"], []
    if major:
        name = f"TDX_{major:02X}"
        known = [m for m in info.get("tdxModuleIdentities", ()) if m["id"] == name]
        if not known:
            msg = f"the TDX module is {name}, which Intel's TCB info does not list"
            raise VerificationError(msg, code="tdx-module-unknown")
        module = known[0]
        levels = [_first(module["tcbLevels"], minor, f"TDX module {name}")]
    attributes = _masked(report.seam_attributes, module["attributesMask"])
    found = report.mrsignerseam, attributes
    if found != tuple(bytes.fromhex(module[n]) for n in ("mrsigner", "attributes")):
        msg = "the TDX module is not signed or configured as Intel's TCB info says"
        raise VerificationError(msg, code="tdx-module-unknown")
    return levels


def _platform_level(
    report: TdReport | SgxReport, platform: Platform, info: Json
) -> _Level:
    for level in info["tcbLevels"]:
        tcb = level["tcb"]
        reached = platform.pce_svn >= tcb["pcesvn"] and _reaches(
            platform.svns, tcb["sgxtcbcomponents"]
        )
        if reached and isinstance(report, TdReport):
            # With a module identity its level counts instead of the first two.
            skip = 2 if report.tee_tcb_svn[1] else 0
            wanted = tcb["tdxtcbcomponents"]
            reached = _reaches(report.tee_tcb_svn, wanted, skip=skip)
        if reached:
            return _Level.of(level)
    msg = "the platform's firmware is below every TCB level that Intel lists"
    raise VerificationError(msg, code="tcb-level-missing")


def _reaches(found: Iterable[int], wanted: list[Any], *, skip: int = 0) -> bool:
    svns = [component["svn"] for component in wanted]
    pairs = list(zip(found, svns, strict=True))
    return len(pairs) == COMPONENTS and all(f >= w for f, w in pairs[skip:])


def _converge(platform: str, others: list[str]) -> str:
    """Return the platform's status, worsened by module and quoting enclave."""
    if REVOKED in others:
        return REVOKED
    if all(status == UP_TO_DATE for status in others):
        return platform
    if platform in {UP_TO_DATE, "SWHardeningNeeded"}:
        return OUT_OF_DATE
    if platform in {"ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"}:
        return "OutOfDateConfigurationNeeded"
    return platform
