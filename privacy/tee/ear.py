"""Attestation Results: a verdict as a signed token, and its check by a relying party.

The token is an EAT Attestation Result (EAR): a JSON Web Token, signed with Ed25519 by
the Verifier, that says of each piece of evidence what AR4SI's trustworthiness vector
can say. A relying party needs the Verifier's public key and neither evidence nor
vendors' roots.

    executables      3 compared with the policy's reference values, or with NVIDIA's
                     own, 0 compared with nothing, 96 refused by the policy
    hardware         2 genuine, 32 with known weaknesses, 97 simulated,
                     0 firmware or revocation could not be looked up, 99 not genuine
    runtime-opaque   2 the host cannot look in, 96 it can (debug)

A status is the worst of its vector: contraindicated, warning, none, affirming.

Source: draft-ietf-rats-ear-04; draft-ietf-rats-ar4si, section 2.3; RFC 9711; RFC 9864.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from privacy import __version__
from privacy.encoding import Json, b64url_decode, parse_object
from privacy.errors import (
    AppraisalError,
    CannotVerifyError,
    FormatError,
    PrivacyError,
    VerificationError,
)
from privacy.jws import key_id
from privacy.tee.attest import Verdict
from privacy.tee.checks import Checklist
from privacy.tee.claims import Claims
from privacy.tee.gpu import is_compared
from privacy.tee.policy import EvidencePolicy, Relaxations
from privacy.tee.tcb import UP_TO_DATE
from privacy.tee.tiers import Tier, status_of, worst

PROFILE = "tag:ietf.org,2026:rats/ear#04"
KEY_FILE = "verifier.key"
LIFETIME = timedelta(minutes=10)
_ALGORITHM = "Ed25519"
_TYPE = "eat+jwt"
_SKEW = timedelta(minutes=1)
_MAX_BYTES = 1 << 18
_NONCE_LENGTHS = range(8, 89)  # RFC 9711, section 4.1
_VERIFIER = {"developer": "Privacy Compute", "build": f"privacy {__version__}"}
_UNSAID = {"hardware": 0, "executables": 0}
_REFUSED, _SIMULATED, _NOT_GENUINE = 96, 97, 99


@dataclass(frozen=True, slots=True)
class CheckedResult:
    """A checked token.

    Attributes:
        status: The worst of all pieces of evidence.
        simulated: Some evidence proves nothing; the relying party allowed that.
        issued_at: When the Verifier looked at the evidence.
        claims: Everything in the token.
    """

    status: Tier
    simulated: bool
    issued_at: datetime
    claims: Json


def sign_result(
    verdict: Verdict,
    policy: EvidencePolicy | Relaxations,
    key: Ed25519PrivateKey,
    *,
    nonce: str = "",
    about: Json | None = None,
) -> str:
    """Return the token that says what was found.

    It is as old as the verdict: evidence verified as of another time gives a token of
    that time, which has expired today.

    Args:
        verdict: Of `attest`.
        policy: That it was made with.
        key: The Verifier's.
        nonce: Of the relying party, 8 to 88 characters; "" for none.
        about: More claims, of names that the profile does not use.

    Raises:
        FormatError: The nonce has another length.
    """
    submods = {
        f"{i}:{claims.format}": _submod(claims, compared=_is_compared(claims, policy))
        for i, claims in enumerate(verdict.claims)
    }
    simulated = any(claims.simulated for claims in verdict.claims)
    token = {**(about or {}), "simulated": simulated, "submods": submods}
    return _signed(token, key, at=verdict.verified_at, nonce=nonce)


def sign_refusal(
    error: PrivacyError,
    key: Ed25519PrivateKey,
    *,
    form: str,
    at: datetime,
    nonce: str = "",
    about: Json | None = None,
) -> str:
    """Return the token that says that evidence was refused.

    It is contraindicated; of evidence that could not be verified nothing is said.

    Args:
        error: Why.
        key: The Verifier's.
        form: What the evidence said its format is.
        at: When it was looked at.
        nonce: See `sign_result`.
        about: See `sign_result`.

    Raises:
        FormatError: See `sign_result`.
    """
    vector = _refused(error)
    submod = {
        "ear_status": status_of(vector),
        "ear_trustworthiness_vector": vector,
        "ear_verifier_claims": {"code": error.code, "refused": error.message},
    }
    simulated = error.code == "simulated-evidence"
    submods = {f"0:{form[:40]}": submod}
    token = {**(about or {}), "simulated": simulated, "submods": submods}
    return _signed(token, key, at=at, nonce=nonce)


def _refused(error: PrivacyError) -> dict[str, int]:
    if error.code == "simulated-evidence":
        return {"hardware": _SIMULATED}
    if isinstance(error, CannotVerifyError):
        return {"hardware": 0}
    if isinstance(error, AppraisalError):
        return {"executables": _REFUSED}
    return {"hardware": _NOT_GENUINE}


def _signed(token: Json, key: Ed25519PrivateKey, *, at: datetime, nonce: str) -> str:
    if nonce and len(nonce) not in _NONCE_LENGTHS:
        msg = f"the nonce has {len(nonce)} characters, expected 8 to 88"
        raise FormatError(msg, code="bad-nonce")
    issued = int(at.timestamp())
    token = {
        **token,
        "eat_profile": PROFILE,
        "iat": issued,
        "exp": issued + int(LIFETIME.total_seconds()),
        "ear_verifier_id": _VERIFIER,
        "ear_status": worst(s["ear_status"] for s in token["submods"].values()),
        **({"eat_nonce": nonce} if nonce else {}),
    }
    header = {"alg": _ALGORITHM, "typ": _TYPE, "kid": key_id(key.public_key())}
    return jwt.encode(header, token, OKPKey.import_key(key), algorithms=[_ALGORITHM])


def _is_compared(claims: Claims, policy: EvidencePolicy | Relaxations) -> bool:
    """Whether someone's reference values were compared: the policy's, or NVIDIA's."""
    if isinstance(policy, EvidencePolicy) and claims.format in policy.measurements:
        return True
    return is_compared(claims)


def _submod(claims: Claims, *, compared: bool) -> Json:
    vector = {"hardware": _hardware(claims), "executables": 3 if compared else 0}
    if claims.debug is not None and not (claims.simulated and not claims.debug):
        vector["runtime-opaque"] = 96 if claims.debug else 2
    found = claims.as_dict()
    debug = found.pop("debug")
    verified = ("simulated", "tcb_status", "advisories", "unchecked", "signer")
    by_verifier = {name: found.pop(name) for name in verified}
    if debug is not None:
        found["dbgstat"] = "enabled" if debug else "disabled"
    return {
        "ear_status": status_of(vector),
        "ear_trustworthiness_vector": vector,
        "ear_attester_claims": found,
        "ear_verifier_claims": by_verifier,
    }


def _hardware(claims: Claims) -> int:
    if claims.simulated:
        return _SIMULATED
    if claims.tcb_status not in {"", UP_TO_DATE} or claims.advisories:
        return 32
    return 0 if claims.unchecked else 2


def check_result(
    token: bytes,
    verifiers: Sequence[Ed25519PublicKey],
    *,
    now: datetime,
    nonce: str = "",
    allow_warning: bool = False,
    allow_simulated: bool = False,
    checks: Checklist | None = None,
) -> CheckedResult:
    """Return what a token says, if a relying party can rely on it.

    Args:
        token: Compact JSON Web Token; a newline may follow.
        verifiers: Public keys of the Verifiers that are trusted; one must have signed.
        now: With a time zone.
        nonce: That the relying party asked with; "" if it asked with none, and then
            the token may hold any.
        allow_warning: Accept hardware with known weaknesses.
        allow_simulated: Accept evidence that proves nothing.
        checks: Gets a line for every step.

    Raises:
        FormatError: Not such a token.
        VerificationError: Nobody trusted signed it, or it is old.
        AppraisalError: It says less than affirming, or is of simulated evidence.
    """
    checks = checks or Checklist()
    with checks.step("result-signature", "by a Verifier that is trusted"):
        claims = _verified(token, verifiers)
    with checks.step("result-profile", PROFILE):
        submods, issued, expires = _shape(claims)
    with checks.step("result-age", f"current at {now.isoformat()}"):
        _check_age(issued, expires, now)
    if nonce:
        with checks.step("result-nonce", nonce):
            if claims.get("eat_nonce") != nonce:
                msg = "the result answers another nonce: ask the Verifier again"
                raise VerificationError(msg, code="result-nonce")
    simulated = claims["simulated"]
    with checks.step("result-origin", "hardware"):
        if simulated and not allow_simulated:
            msg = "the result is of simulated evidence, which proves nothing"
            raise AppraisalError(msg, code="simulated-evidence")
    status = worst(
        status_of(_UNSAID | vector, leave_out={"hardware"} if simulated else set())
        for vector in submods.values()
    )
    wanted = ("affirming", "warning")[: 1 + allow_warning]
    with checks.step("result-status", " or ".join(wanted)) as found:
        found.append(status)
        if status not in wanted:
            msg = f"the result says {status}, expected {' or '.join(wanted)}"
            raise AppraisalError(msg, code="result-status")
    return CheckedResult(status, simulated, issued, claims)


def _verified(token: bytes, verifiers: Sequence[Ed25519PublicKey]) -> Json:
    if len(token) > _MAX_BYTES:
        msg = f"the result has {len(token)} bytes, at most {_MAX_BYTES} are allowed"
        raise FormatError(msg, code="too-large")
    token = token.removesuffix(b"\n")
    for part in token.decode("ascii", errors="replace").split("."):
        b64url_decode(part, what="a part of the result")  # the library takes others
    for key in verifiers:
        try:
            found = jws.deserialize_compact(
                token, OKPKey.import_key(key), algorithms=[_ALGORITHM]
            )
        except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
            continue  # another key, or no token at all: the same to whoever asks
        if found.headers().get("typ") == _TYPE:
            return parse_object(found.payload or b"", what="result", limit=_MAX_BYTES)
    msg = "the result is not a token signed by a Verifier that is trusted"
    raise VerificationError(msg, code="result-signature")


def _shape(claims: Json) -> tuple[dict[str, Json], datetime, datetime]:
    """Return the vectors by name, and the times of issue and expiry."""
    submods, times = claims.get("submods"), (claims.get("iat"), claims.get("exp"))
    good = (
        claims.get("eat_profile") == PROFILE
        and isinstance(claims.get("simulated"), bool)
        and isinstance(submods, dict)
        and bool(submods)
        and all(type(t) is int and 0 < t < 1 << 33 for t in times)
    )
    if not good:
        msg = f"the result is not of profile {PROFILE}, or lacks claims"
        raise FormatError(msg, code="result-profile")
    vectors = {name: _vector(s) for name, s in dict(submods or {}).items()}
    moments = [datetime.fromtimestamp(int(t or 0), UTC) for t in times]
    return vectors, moments[0], moments[1]


def _vector(submod: Any) -> Json:
    parts = submod if isinstance(submod, dict) else {}
    vector = parts.get("ear_trustworthiness_vector")
    status = parts.get("ear_status")
    sound = isinstance(vector, dict) and all(
        type(v) is int and -128 <= v < 128  # noqa: PLR2004 - a signed byte
        for v in vector.values()
    )
    if not sound or status not in get_args(Tier) or status != status_of(vector or {}):
        msg = "a part of the result lacks its vector, or its status is another's"
        raise FormatError(msg, code="result-profile")
    return dict(vector or {})


def _check_age(issued: datetime, expires: datetime, now: datetime) -> None:
    if now.tzinfo is None:
        raise FormatError("the time to check at has no time zone: give UTC")
    if not issued - _SKEW <= now <= expires or expires - issued > LIFETIME:
        msg = (
            f"the result counts from {issued.isoformat()} to {expires.isoformat()}, "
            f"not at {now.isoformat()}: ask the Verifier again"
        )
        raise VerificationError(msg, code="result-expired")
