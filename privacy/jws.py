"""Ed25519 keys as JSON Web Keys, and what a detached JSON Web Signature signs.

A detached signature (RFC 7515 appendix F) is `HEADER..SIGNATURE`: what it signs travels
beside it.
"""

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.encoding import (
    Json,
    b64url,
    b64url_decode,
    canonical_json,
    parse_canonical,
    sha256_hex,
)
from privacy.errors import FormatError


def key_id(public_key: Ed25519PublicKey) -> str:
    """Return the RFC 7638 thumbprint of a key."""
    return _thumbprint(public_key.public_bytes_raw())


@lru_cache(maxsize=128)
def _thumbprint(raw: bytes) -> str:
    return b64url(bytes.fromhex(sha256_hex(canonical_json(_bare_jwk(raw)))))


def bare_jwk(public_key: Ed25519PublicKey) -> Json:
    """Return the members of a JSON Web Key that make the key, and no other."""
    return _bare_jwk(public_key.public_bytes_raw())


def _bare_jwk(raw: bytes) -> Json:
    return {"crv": "Ed25519", "kty": "OKP", "x": b64url(raw)}


def public_jwk(public_key: Ed25519PublicKey) -> Json:
    """Return a key as a JSON Web Key for signatures."""
    marks = {"alg": "EdDSA", "use": "sig", "kid": key_id(public_key)}
    return {**bare_jwk(public_key), **marks}


def key_from_jwk(jwk: Json) -> Ed25519PublicKey:
    """Return the key in a JSON Web Key.

    Raises:
        FormatError: It is not an Ed25519 key.
    """
    if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519":
        raise FormatError("the key is not an Ed25519 JSON Web Key")
    try:
        return Ed25519PublicKey.from_public_bytes(
            b64url_decode(str(jwk.get("x")), what="Ed25519 key")
        )
    except ValueError as exc:
        raise FormatError("the Ed25519 key is not 32 bytes") from exc


def keys_from_jwks(jwks: Json) -> dict[str, Ed25519PublicKey]:
    """Return the keys of a JSON Web Key Set by key id.

    Raises:
        FormatError: Not a key set, or a key of another kind.
    """
    keys = jwks.get("keys")
    if not isinstance(keys, list) or not keys:
        raise FormatError("the key set has no keys")
    found = [key_from_jwk(k) for k in keys if isinstance(k, dict)]
    return {key_id(k): k for k in found}


def signed_bytes(header: str, payload: bytes) -> bytes:
    """Return what a signature with that encoded header is over."""
    return f"{header}.{b64url(payload)}".encode()


def matches(public_key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    """Return whether a key made a signature."""
    try:
        public_key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def split_detached(jws: object, *, what: str) -> tuple[Json, bytes]:
    """Return the header and the signature of a detached JSON Web Signature.

    Raises:
        FormatError: It is none, or its header is not canonical JSON.
    """
    parts = jws.split(".") if isinstance(jws, str) else []
    if len(parts) != 3 or parts[1]:  # noqa: PLR2004 - header, empty payload, signature
        raise FormatError(f"{what} is not a detached JSON Web Signature")
    raw = b64url_decode(parts[0], what=f"header of {what}")
    header = parse_canonical(raw, what=f"header of {what}")
    return header, b64url_decode(parts[2], what=what)
