"""Reference values, signed by whoever publishes the workload. Pure.

A manifest is a compact JSON Web Signature, Ed25519, over canonical JSON:

    format        privacy-compute/reference-values/1
    issued_at     RFC 3339, UTC, as is
    expires_at
    measurements  by format and register, lists of hex

The signature carries the public key. A policy names the key ids it accepts.

Source: RFC 7515; RFC 7638 for key ids; RFC 9864 for the algorithm's name.
"""

from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from privacy.encoding import (
    b64url_decode,
    canonical_json,
    parse_canonical,
    parse_object,
)
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.jws import bare_jwk, key_from_jwk, key_id
from privacy.tee.checks import Checklist
from privacy.tee.policy import EvidencePolicy, reference_values

FORMAT = "privacy-compute/reference-values/1"
MAX_BYTES = 1 << 20
_ALGORITHM = "Ed25519"
_MEMBERS = {"format", "issued_at", "expires_at", "measurements"}
_PARTS = 3

Measurements = dict[str, dict[str, tuple[str, ...]]]


def sign_reference_values(
    measurements: Measurements,
    key: Ed25519PrivateKey,
    *,
    issued_at: datetime,
    expires_at: datetime,
) -> str:
    """Return a manifest of these reference values.

    Raises:
        FormatError: There are none, or they would expire before they are issued.
    """
    if not measurements or expires_at <= issued_at:
        raise FormatError("the manifest has no values, or expires at once")
    times = [t.astimezone(UTC).isoformat() for t in (issued_at, expires_at)]
    value = {
        "format": FORMAT,
        "issued_at": times[0],
        "expires_at": times[1],
        "measurements": {
            form: {name: list(values) for name, values in table.items()}
            for form, table in measurements.items()
        },
    }
    header = {"alg": _ALGORITHM, "typ": FORMAT, "jwk": bare_jwk(key.public_key())}
    return jws.serialize_compact(
        header, canonical_json(value), OKPKey.import_key(key), algorithms=[_ALGORITHM]
    )


def apply_reference_values(
    policy: EvidencePolicy,
    manifest: bytes | None,
    *,
    now: datetime,
    checks: Checklist,
) -> EvidencePolicy:
    """Return the policy with the reference values of a manifest, if it wants one.

    Args:
        policy: From `parse_policy`.
        manifest: The file; None if none was given.
        now: When the manifest must be current.
        checks: Gets a line for every step.

    Raises:
        FormatError: Not a manifest, or the policy wants none.
        VerificationError: The signer is not one that the policy names, or the
            manifest was changed or is not current.
        CannotVerifyError: The policy wants a manifest, and none was given.
    """
    signers = policy.reference_value_signers
    if manifest is None and not signers:
        return policy
    if manifest is None:
        msg = "the policy takes reference values from a manifest: give it"
        raise CannotVerifyError(msg, code="reference-values-missing")
    if not signers:
        msg = "there is a manifest, but the policy names no reference_value_signers"
        raise FormatError(msg, code="bad-policy")
    expected = f"signed by {' or '.join(signers)}, current"
    with checks.step("reference-values", expected) as found:
        signer, measurements = _open(manifest, signers, now)
        found.append(f"by {signer}")
    return policy.with_reference_values(measurements)


def _open(
    manifest: bytes, signers: tuple[str, ...], now: datetime
) -> tuple[str, Measurements]:
    what = "manifest of reference values"
    if len(manifest) > MAX_BYTES:
        raise FormatError(f"the {what} has more than 1 MiB", code="too-large")
    text = manifest.decode("ascii", errors="replace").removesuffix("\n")
    parts = [b64url_decode(part, what=what) for part in text.split(".")]
    if len(parts) != _PARTS:
        raise FormatError(f"the {what} is not a JSON Web Signature")
    header = parse_object(parts[0], what=f"header of the {what}")
    jwk = header.get("jwk")
    if header.get("typ") != FORMAT or not isinstance(jwk, dict):
        raise FormatError(f"the {what} is of another type, or lacks its signer's key")
    public_key = key_from_jwk(jwk)
    signer = key_id(public_key)
    if signer not in signers:
        msg = f"the {what} is by {signer}, whom the policy does not name"
        raise VerificationError(msg, code="reference-values-signer")
    try:
        jws.deserialize_compact(
            text, OKPKey.import_key(public_key), algorithms=[_ALGORITHM]
        )
    except (JoseError, ValueError, TypeError) as exc:
        msg = f"the {what} was not signed by {signer}: it was changed"
        raise VerificationError(msg, code="reference-values-signature") from exc
    return signer, _values(parts[1], what, now)


def _values(payload: bytes, what: str, now: datetime) -> Measurements:
    value = parse_canonical(payload, what=what)
    if set(value) != _MEMBERS or value["format"] != FORMAT:
        raise FormatError(f"the {what} lacks or adds members")
    issued, expires = (_time(value[name]) for name in ("issued_at", "expires_at"))
    if not issued <= now <= expires:
        msg = (
            f"the {what} counts from {issued.isoformat()} to {expires.isoformat()}, "
            f"not at {now.isoformat()}: get a newer one"
        )
        raise VerificationError(msg, code="reference-values-expired")
    found = reference_values(value["measurements"])
    if not found:
        raise FormatError(f"the {what} has no values")
    return found


def _time(text: object) -> datetime:
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError as exc:
        raise FormatError("a time in the manifest is not RFC 3339") from exc
    if when.tzinfo is None:
        raise FormatError("a time in the manifest has no time zone")
    return when
