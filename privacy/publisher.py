"""Who published a bundle: an Ed25519 signature over its manifest, and whom to trust.

    manifest.jws       in the bundle: a detached JWS that carries the public key
    publisher.key      in the publisher's home: 32 bytes, mode 0600
    publishers.json    in the operator's home: a JSON Web Key Set, whom to trust

The manifest pins every other file by digest, so one signature covers the whole bundle.
A bundle is code that a node runs: it is loaded only if a trusted publisher signed it.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from privacy.bundle import MANIFEST, SIGNATURE, Bundle, open_bundle
from privacy.encoding import b64url, canonical_json, parse_object, sha256_hex
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.files import locked, secret_of_file, write_atomic
from privacy.jws import (
    bare_jwk,
    key_from_jwk,
    key_id,
    keys_from_jwks,
    matches,
    public_jwk,
    signed_bytes,
    split_detached,
)

FORMAT = "privacy-compute/bundle-signature/1"
KEY_FILE = "publisher.key"
TRUST_FILE = "publishers.json"
_MAX_SIGNATURE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose bundles may be loaded.

    Attributes:
        key_ids: The publishers' key ids.
        allow_unsigned: Load bundles without a signature too; a bad one stays refused.
    """

    key_ids: frozenset[str]
    allow_unsigned: bool = False


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Return the Ed25519 key in a file, made on first use with mode 0600.

    Raises:
        FormatError: The file is not a key of 32 bytes.
    """
    return Ed25519PrivateKey.from_private_bytes(
        secret_of_file(path, code="signing-key")
    )


def publisher_key(home: Path) -> Ed25519PrivateKey:
    """Return the publisher's key in a home, made and trusted there on first use."""
    is_new = not (home / KEY_FILE).exists()
    private_key = load_private_key(home / KEY_FILE)
    if is_new:
        trust_publisher(home, private_key.public_key())
    return private_key


def trusted_publishers(path: Path) -> dict[str, Ed25519PublicKey]:
    """Return the publishers in a trust file by key id; none if there is no file.

    Raises:
        FormatError: The file is not a JSON Web Key Set, or a single JSON Web Key.
    """
    if not path.is_file():
        return {}
    value = parse_object(path.read_bytes(), what=str(path), limit=1 << 20)
    if value.get("keys") == []:
        return {}
    return keys_from_jwks(value if "keys" in value else {"keys": [value]})


def trust_publisher(home: Path, public_key: Ed25519PublicKey) -> None:
    """Add a publisher to those a home trusts."""
    with _locked_trust(home):
        known = trusted_publishers(home / TRUST_FILE)
        _write_trust(home, {**known, key_id(public_key): public_key})


def distrust_publisher(home: Path, publisher: str) -> None:
    """Remove a publisher from those a home trusts.

    Raises:
        NotFoundError: It is not among them.
    """
    with _locked_trust(home):
        known = trusted_publishers(home / TRUST_FILE)
        if publisher not in known:
            msg = f"publisher {publisher[:43]!r} is not trusted here: see the list"
            raise NotFoundError(msg, code="unknown-publisher")
        del known[publisher]
        _write_trust(home, known)


def _locked_trust(home: Path) -> AbstractContextManager[None]:
    """Let one change at a time be read, made and written."""
    return locked(home / f".{TRUST_FILE}.lock")


def _write_trust(home: Path, keys: dict[str, Ed25519PublicKey]) -> None:
    value = {"keys": [public_jwk(key) for key in keys.values()]}
    write_atomic(home / TRUST_FILE, json.dumps(value, indent=1).encode(), private=True)


def load_trust(
    home: Path, files: Sequence[Path] = (), *, allow_unsigned: bool = False
) -> Trust:
    """Return whom to trust: a home's publishers, and those in files that must exist.

    Raises:
        FormatError: A file is missing, or holds no keys.
    """
    found = trusted_publishers(home / TRUST_FILE)
    for file in files:
        if not file.is_file():
            raise FormatError(f"there is no file {file}", code="no-such-file")
        found |= trusted_publishers(file)
    return Trust(frozenset(found), allow_unsigned=allow_unsigned)


def sign_manifest(manifest: bytes, private_key: Ed25519PrivateKey) -> bytes:
    """Return the content of a bundle's signature file."""
    header = _header(private_key.public_key())
    signature = private_key.sign(signed_bytes(header, manifest))
    return f"{header}..{b64url(signature)}".encode()


def sign_bundle(root: Path, private_key: Ed25519PrivateKey) -> None:
    """Write the signature beside the manifest of a bundle."""
    signature = sign_manifest((root / MANIFEST).read_bytes(), private_key)
    write_atomic(root / SIGNATURE, signature)


def verify_manifest(manifest: bytes, signature: bytes) -> Ed25519PublicKey:
    """Return the key that signed a manifest; whether to trust it is another question.

    Raises:
        VerificationError: The manifest or the signature was changed after signing.
    """
    text = signature[:_MAX_SIGNATURE_BYTES].decode("ascii", errors="replace")
    try:
        header, found = split_detached(text, what="the bundle's signature")
        jwk = header.get("jwk")
        public_key = key_from_jwk(jwk if isinstance(jwk, dict) else {})
    except FormatError as exc:
        raise VerificationError(exc.message, code="bundle-signature") from exc
    expected = _header(public_key)
    canonical = signature == f"{expected}..{b64url(found)}".encode()
    if not canonical or not matches(
        public_key, found, signed_bytes(expected, manifest)
    ):
        msg = (
            "the bundle's signature does not match its manifest: one of them was "
            "changed after signing; copy the bundle again, or publish it again"
        )
        raise VerificationError(msg, code="bundle-signature")
    return public_key


def signer_of(bundle: Bundle) -> str:
    """Return the key id of whoever signed a bundle on disk, "" if nobody did.

    Raises:
        VerificationError: The signature does not match, or the manifest is not the one
            that was opened.
    """
    path = bundle.root / SIGNATURE
    if not path.is_file():
        return ""
    manifest = (bundle.root / MANIFEST).read_bytes()
    if sha256_hex(manifest) != bundle.sha256:
        msg = "the bundle was replaced while it was read: try again"
        raise VerificationError(msg, code="bundle-changed")
    return key_id(verify_manifest(manifest, path.read_bytes()))


def check_publisher(publisher: str, trust: Trust) -> None:
    """Refuse a bundle whose publisher is not trusted.

    Raises:
        VerificationError: It is not signed, or by someone else.
    """
    if not publisher and not trust.allow_unsigned:
        msg = (
            "the bundle is not signed, and it holds code: publish it again with this "
            "version, or set allow_unsigned_bundles if you made it yourself"
        )
        raise VerificationError(msg, code="bundle-unsigned")
    if publisher and publisher not in trust.key_ids:
        msg = (
            f"the bundle is signed by publisher {publisher}, who is not trusted here: "
            "if you know them, add their key with `privacy publisher --trust FILE`"
        )
        raise VerificationError(msg, code="publisher-untrusted")


def open_trusted(root: Path, trust: Trust) -> Bundle:
    """Return the bundle in `root`: first its publisher is checked, then every file.

    Raises:
        PrivacyError: See `open_bundle`, `signer_of` and `check_publisher`.
    """
    bundle = open_bundle(root, check_files=False)
    publisher = signer_of(bundle)
    check_publisher(publisher, trust)
    bundle.check_files()
    return replace(bundle, publisher=publisher)


def _header(public_key: Ed25519PublicKey) -> str:
    members = {"alg": "EdDSA", "jwk": bare_jwk(public_key), "typ": FORMAT}
    return b64url(canonical_json(members))
