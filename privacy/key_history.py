"""The receipt keys of a gateway, one after the other, each vouched for by the last.

A gateway serves its keys as a JSON Web Key Set with one more member, `history`: what
was said about them, in order, each statement signed and bound to the one before.

    first    the key a gateway began with; signed by itself
    next     a new key signs from now on; signed by the key before, and by itself
    revoked  an earlier key is in the wrong hands; signed by the key of the day

Whoever pinned the first key follows the statements to today's, and needs to trust
nothing anew. Whoever saw a history accepts only ones that begin with it.

What this cannot do: a thief of today's key can say what the gateway can, its successor
included. Two histories that part are found out by whoever sees both.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from privacy.encoding import (
    Json,
    b64url,
    canonical_json,
    sha256_hex,
)
from privacy.errors import CannotVerifyError, FormatError, VerificationError
from privacy.jws import (
    key_from_jwk,
    key_id,
    keys_from_jwks,
    matches,
    public_jwk,
    signed_bytes,
    split_detached,
)

FORMAT = "privacy-compute/receipt-key/1"
FIRST, NEXT, REVOKED = "first", "next", "revoked"
OWN = "jws_of_next"
_MOST = 1000


@dataclass(frozen=True, slots=True)
class ReceiptKey:
    """A key and when its receipts count.

    Attributes:
        until: RFC 3339; receipts of jobs that end later do not count. Empty: no end.
        revoked_log_size: If revoked, how many entries the gateway's log had when the
            key was last in the right hands: only receipts among those still count.
    """

    public_key: Ed25519PublicKey
    until: str = ""
    revoked_log_size: int | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing said about a key.

    Attributes:
        action: `first`, `next` or `revoked`.
        kid: The key it is about.
        x: That key, base64url; empty if revoked.
        at: When it was said; RFC 3339, UTC, milliseconds.
        until: For `next`, when the key before ends; for `revoked`, since when that key
            is in the wrong hands.
        log_size: For `revoked`, see `ReceiptKey`; else 0.
        previous_sha256: Of the statement before with its signature, canonical.
    """

    action: str
    kid: str
    x: str
    at: str
    until: str
    log_size: int
    previous_sha256: str


def begin(key: Ed25519PrivateKey, *, at: str) -> list[Json]:
    """Return the history of a gateway that has one key."""
    public = key.public_key()
    said = Statement(FIRST, key_id(public), _x(public), at, "", 0, "")
    return [_sign(said, key)]


def succeed(
    history: Sequence[Json],
    new: Ed25519PrivateKey,
    old: Ed25519PrivateKey,
    *,
    at: str,
    until: str,
) -> list[Json]:
    """Return a history with a new key, vouched for by the one before.

    Args:
        history: So far.
        new: Signs from now on.
        old: Signed until now.
        at: RFC 3339, now.
        until: When the old one's receipts cease to count.
    """
    public, before = new.public_key(), _digest(history[-1])
    said = Statement(NEXT, key_id(public), _x(public), at, until, 0, before)
    own = _sign(said, new)["jws"]  # or others' keys could be named here, and revoked
    return [*history, {**_sign(said, old), OWN: own}]


def revoke(
    history: Sequence[Json],
    kid: str,
    current: Ed25519PrivateKey,
    *,
    at: str,
    since: str,
    log_size: int,
) -> list[Json]:
    """Return a history in which an earlier key is revoked; see `Statement`.

    Raises:
        FormatError: It is the current key, or none of these.
    """
    known = read_history({"history": list(history)})
    if kid not in known or kid == key_id(current.public_key()):
        msg = f"key {kid[:43]!r} is not an earlier key of this gateway: rotate first"
        raise FormatError(msg, code="unknown-receipt-key")
    said = Statement(REVOKED, kid, "", at, since, log_size, _digest(history[-1]))
    return [*history, _sign(said, current)]


def key_set(history: Sequence[Json]) -> Json:
    """Return what a gateway serves: the keys that were not revoked, and the history."""
    known = read_history({"history": list(history)})
    good = [k.public_key for k in known.values() if k.revoked_log_size is None]
    return {"keys": [public_jwk(k) for k in good[::-1]], "history": list(history)}


def read_history(jwks: Json) -> dict[str, ReceiptKey]:
    """Return the keys of a key set by key id, the newest last; signatures hold.

    A key set without a history has keys that count without end.

    Raises:
        FormatError: It is no key set.
        VerificationError: Its history was changed, or its keys are not those of it.
    """
    history = jwks.get("history")
    if history is None:
        return {kid: ReceiptKey(key) for kid, key in keys_from_jwks(jwks).items()}
    if not isinstance(history, list) or not 0 < len(history) <= _MOST:
        raise FormatError(f"the key history has not 1 to {_MOST} statements")
    found = _first(history[0])
    current = next(iter(found))
    for before, entry in pairwise(history):
        said = _statement(entry)
        if said.previous_sha256 != _digest(before):
            raise _broken("a statement does not follow the one before it")
        _check(entry, said, found[current].public_key)
        if said.action == NEXT:
            _check(entry, said, _public(said), member=OWN)
        current = _apply(said, found, current)
    served = set(keys_from_jwks(jwks)) if "keys" in jwks else set(found)
    if not served <= set(found):
        raise _broken("a key is served that it does not name")
    return found


def extend(pinned: Json, served: Json) -> dict[str, ReceiptKey]:
    """Return the keys of a served key set if it continues the pinned one.

    Args:
        pinned: The key set as seen last.
        served: As it is now.

    Raises:
        CannotVerifyError: It has other keys, and nothing ties them to the pinned ones.
        VerificationError: What was said before is said otherwise now.
    """
    before, now = read_history(pinned), read_history(served)
    said = pinned.get("history") or []
    if said and served.get("history", [])[: len(said)] != said:
        msg = (
            "the gateway tells another history of its receipt keys than it did before: "
            "one of the two is a forgery; ask its operator over another channel"
        )
        raise VerificationError(msg, code="key-history-fork")
    # What stands before the first pinned key could be anybody's: nothing may.
    began = next(iter(now)) if "history" in served and not said else ""
    strange = set(now) - set(before) if "history" not in served else set()
    if not set(before) <= set(now) or began not in {"", *before} or strange:
        msg = (
            "the gateway has other receipt keys than it named at first, and the first "
            "ones do not vouch for them: ask its operator over another channel"
        )
        raise CannotVerifyError(msg, code="unknown-receipt-key")
    return now


def check_counts(
    key: ReceiptKey, *, finished_at: str, log_index: int | None = None
) -> None:
    """Check that a receipt with a good signature counts.

    Args:
        key: That signed it.
        finished_at: As the receipt says.
        log_index: Its place in the gateway's log, if a proof showed it.

    Raises:
        VerificationError: The key had ended or was stolen before.
        CannotVerifyError: The key was revoked, and no log entry shows that the receipt
            is older.
    """
    if key.revoked_log_size is not None:
        if log_index is None:
            msg = (
                "the key that signed it was revoked, so only the log can show that the "
                "receipt is older: `privacy log fetch` it, then verify with --log"
            )
            raise CannotVerifyError(msg, code="receipt-key-revoked")
        if log_index >= key.revoked_log_size:
            msg = (
                f"it is entry {log_index} of the log, and the key that signed it was "
                f"revoked from entry {key.revoked_log_size} on"
            )
            raise VerificationError(msg, code="receipt-key-revoked")
    elif key.until and finished_at > key.until:
        msg = f"it was signed by a key that ended at {key.until}"
        raise VerificationError(msg, code="receipt-key-ended")


def stricter(one: ReceiptKey, other: ReceiptKey) -> ReceiptKey:
    """Return of two words about one key the one that lets less count."""
    sizes = [k.revoked_log_size for k in (one, other)]
    ends = [k.until for k in (one, other) if k.until]
    return replace(
        one,
        until=min(ends, default=""),
        revoked_log_size=min((s for s in sizes if s is not None), default=None),
    )


def united(key_sets: Iterable[Mapping[str, ReceiptKey]]) -> dict[str, ReceiptKey]:
    """Return the keys of several gateways; of one that two have, the stricter word."""
    keys: dict[str, ReceiptKey] = {}
    for found in key_sets:
        for kid, key in found.items():
            keys[kid] = stricter(keys.get(kid, key), key)
    return keys


def keys_beside(
    kid: str, key_sets: Sequence[Mapping[str, ReceiptKey]]
) -> dict[str, ReceiptKey]:
    """Return the receipt keys of the gateway that one of them belongs to.

    A thief can name the stolen key as a gateway's of his own: where several name it,
    only keys count that all of them have, or all of those that revoked it.

    Args:
        kid: Id of that key.
        key_sets: Of each gateway.
    """
    naming = [found for found in key_sets if kid in found]
    revoked = [f for f in naming if f[kid].revoked_log_size is not None]
    sets = [set(found) for found in revoked or naming]
    common = set.intersection(*sets) if sets else set()
    return {other: key for other, key in united(key_sets).items() if other in common}


def public_keys(keys: Mapping[str, ReceiptKey]) -> dict[str, Ed25519PublicKey]:
    """Return the keys alone."""
    return {kid: key.public_key for kid, key in keys.items()}


def _apply(said: Statement, found: dict[str, ReceiptKey], current: str) -> str:
    """Take in what was said; return the key that signs from then on."""
    if said.action == NEXT and said.kid not in found:
        found[current] = replace(found[current], until=said.until)
        found[said.kid] = ReceiptKey(_public(said))
        return said.kid
    if said.action == REVOKED and said.kid in found and said.kid != current:
        known = found[said.kid]
        sizes = (said.log_size, known.revoked_log_size)
        size = min(s for s in sizes if s is not None)
        found[said.kid] = replace(known, revoked_log_size=size)
        return current
    raise _broken(f"it cannot say {said.action!r} there")


def _first(entry: object) -> dict[str, ReceiptKey]:
    said = _statement(entry)
    if said.action != FIRST or said.previous_sha256:
        raise _broken("it does not begin with a first key")
    public = _public(said)
    _check(entry, said, public)
    return {said.kid: ReceiptKey(public)}


def _public(said: Statement) -> Ed25519PublicKey:
    try:
        public = key_from_jwk({"kty": "OKP", "crv": "Ed25519", "x": said.x})
    except FormatError as exc:
        raise _broken(exc.message) from exc
    if key_id(public) != said.kid:
        raise _broken("a key has not the id that it is named by")
    return public


def _check(
    entry: object, said: Statement, signer: Ed25519PublicKey, *, member: str = "jws"
) -> None:
    kid = key_id(signer)
    try:
        _, signature = split_detached(_member(entry, member), what="key statement")
    except FormatError as exc:
        raise _broken(exc.message) from exc
    signed = signed_bytes(_header(kid), canonical_json(asdict(said)))
    if _member(entry, member) != f"{_header(kid)}..{b64url(signature)}" or not matches(
        signer, signature, signed
    ):
        raise _broken("a statement is not signed by the key of its day")


def _statement(entry: object) -> Statement:
    body = _member(entry, "statement")
    types = {f.name: int if f.name == "log_size" else str for f in fields(Statement)}
    if (
        not isinstance(body, dict)
        or not isinstance(entry, dict)
        or {k: type(v) for k, v in body.items()} != types
        or body["log_size"] < 0
    ):
        raise _broken("a statement has not the members it should have")
    said = Statement(**body)
    if set(entry) != {"statement", "jws", *([OWN] if said.action == NEXT else [])}:
        raise _broken("a statement has not the signatures it should have")
    return said


def _member(entry: object, name: str) -> object:
    return entry.get(name) if isinstance(entry, dict) else None


def _sign(said: Statement, key: Ed25519PrivateKey) -> Json:
    header, body = _header(key_id(key.public_key())), asdict(said)
    signature = key.sign(signed_bytes(header, canonical_json(body)))
    return {"statement": body, "jws": f"{header}..{b64url(signature)}"}


def _header(kid: str) -> str:
    return b64url(canonical_json({"alg": "EdDSA", "kid": kid, "typ": FORMAT}))


def _x(public: Ed25519PublicKey) -> str:
    return b64url(public.public_bytes_raw())


def _digest(entry: Json) -> str:
    return sha256_hex(canonical_json(entry))


def _broken(why: str) -> VerificationError:
    msg = f"the history of the gateway's receipt keys does not hold: {why}"
    return VerificationError(msg, code="key-history-broken")
