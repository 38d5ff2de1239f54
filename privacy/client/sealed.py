"""One secret in one file, encrypted under a passphrase.

    magic 8 bytes | header length u32, little-endian | header | ciphertext

The header is canonical JSON: what the file is about, and its lock. The content is
encrypted with AES-256-GCM under a key of its own, bound to every byte of the header;
that key is encrypted likewise under one that Argon2id derives from the passphrase.
Without a passphrase the content's key lies open in the header: the file is then as
readable as its mode allows, and damage is still found.
"""

import functools
import os
import struct
import unicodedata
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from privacy.encoding import (
    Json,
    b64url,
    b64url_decode,
    canonical_json,
    parse_canonical,
)
from privacy.errors import AuthError, FormatError, UnavailableError

MAGIC = b"PCSEAL1\n"
MIN_PASSPHRASE = 8
MAX_HEADER_BYTES = 1 << 14
_FORMAT = "privacy-compute/sealed/1"
_HEAD = struct.Struct("<8sI")
_KEY_BYTES, _NONCE_BYTES, _SALT_BYTES = 32, 12, 16
_MAX_CONTENT_BYTES = (1 << 31) - 64  # of one AES-GCM call
_ZERO = bytes(_NONCE_BYTES)  # the content's key encrypts one message only
# RFC 9106, second recommended option: 64 MiB, a fifth of a second.
_COST = {"iterations": 3, "lanes": 4, "memory_kib": 1 << 16}
_MOST = {"iterations": 16, "lanes": 16, "memory_kib": 1 << 20}


@dataclass(frozen=True, slots=True)
class Header:
    """What a sealed file says before it is opened; true only once it was.

    Attributes:
        about: What the file holds, for lists.
        lock: How its key is had.
        raw: The header's exact bytes.
    """

    about: Json
    lock: Json
    raw: bytes

    @property
    def size(self) -> int:
        """Where the ciphertext begins."""
        return _HEAD.size + len(self.raw)

    @property
    def is_protected(self) -> bool:
        """Whether a passphrase is needed."""
        return bool(self.lock["kind"] == "passphrase")


def seal(
    content: bytes, *, about: Json, passphrase: str | None, salt: bytes | None = None
) -> bytes:
    """Return the content of a sealed file.

    Args:
        content: The secret, less than 2 GiB.
        about: What it is; readable without the passphrase.
        passphrase: At least 8 characters; None leaves the file unprotected.
        salt: That of another file under the same passphrase, whose slow derivation
            then serves both; fresh if None.

    Raises:
        FormatError: The content is too large, or the passphrase too short.
    """
    if len(content) > _MAX_CONTENT_BYTES:
        msg = f"the secret has {len(content)} bytes, at most {_MAX_CONTENT_BYTES}"
        raise FormatError(msg, code="too-large")
    content_key = AESGCM.generate_key(8 * _KEY_BYTES)
    if passphrase is None:
        lock: Json = {"kind": "none", "key": b64url(content_key)}
    else:
        check_new_passphrase(passphrase)
        salt = salt or os.urandom(_SALT_BYTES)
        nonce = os.urandom(_NONCE_BYTES)
        open_lock: Json = {
            "kind": "passphrase",
            "kdf": "argon2id",
            **_COST,
            "salt": b64url(salt),
            "nonce": b64url(nonce),
        }
        wrapped = AESGCM(_derived(passphrase, salt, **_COST)).encrypt(
            nonce, content_key, _header(about, open_lock)
        )
        lock = {**open_lock, "key": b64url(wrapped)}
    header = _header(about, lock)
    if len(header) > MAX_HEADER_BYTES:
        raise FormatError("too much is said about a secret", code="too-large")
    body = AESGCM(content_key).encrypt(_ZERO, content, header)
    return _HEAD.pack(MAGIC, len(header)) + header + body


def read_header(raw: bytes, *, what: str) -> Header:
    """Return the header of a sealed file, of which `raw` is at least the beginning.

    Raises:
        FormatError: It is not one, or asks for an absurd derivation.
    """
    if len(raw) < _HEAD.size or raw[: len(MAGIC)] != MAGIC:
        raise FormatError(f"{what} is not a sealed file of ours", code="keys-damaged")
    _, size = _HEAD.unpack_from(raw)
    header = raw[_HEAD.size : _HEAD.size + size]
    if size > MAX_HEADER_BYTES or len(header) != size:
        raise _damaged(what)
    value = parse_canonical(header, what=f"the header of {what}")
    about, lock = value.get("about"), value.get("lock")
    if (
        set(value) != {"format", "about", "lock"}
        or value["format"] != _FORMAT
        or not isinstance(about, dict)
        or not _is_lock(lock)
    ):
        raise _damaged(what)
    return Header(about=about, lock=value["lock"], raw=header)


def unseal(raw: bytes, *, passphrase: str | None, what: str) -> bytes:
    """Return the secret in a sealed file.

    Raises:
        FormatError: The file is damaged.
        AuthError: The passphrase is missing, or is not the file's.
    """
    header = read_header(raw, what=what)
    content_key = content_key_of(header, passphrase, what=what)
    try:
        return AESGCM(content_key).decrypt(_ZERO, raw[header.size :], header.raw)
    except InvalidTag:
        raise _damaged(what) from None


def content_key_of(header: Header, passphrase: str | None, *, what: str) -> bytes:
    """Return the key of a file's content, which shows that the passphrase is right.

    Raises:
        AuthError: The passphrase is missing, or is not the file's.
    """
    lock = header.lock
    if lock["kind"] == "none":
        return b64url_decode(lock["key"], what="key")
    if passphrase is None:
        msg = f"{what} is protected: give its passphrase"
        raise AuthError(msg, code="passphrase-missing")
    cost = {name: lock[name] for name in _COST}
    derived = _derived(passphrase, b64url_decode(lock["salt"], what="salt"), **cost)
    open_lock = {name: lock[name] for name in lock if name != "key"}
    nonce, key = (b64url_decode(lock[n], what=n) for n in ("nonce", "key"))
    try:
        return AESGCM(derived).decrypt(nonce, key, _header(header.about, open_lock))
    except InvalidTag:
        msg = f"this passphrase does not open {what}, or the file was changed"
        raise AuthError(msg, code="wrong-passphrase") from None


def check_new_passphrase(passphrase: str) -> None:
    """Refuse a passphrase that is too short to protect anything.

    Raises:
        FormatError: It is.
    """
    if len(passphrase) < MIN_PASSPHRASE:
        msg = (
            f"the passphrase has fewer than {MIN_PASSPHRASE} characters: take a longer"
        )
        raise FormatError(msg, code="passphrase-too-short")


@functools.lru_cache(maxsize=16)
def _derived(
    passphrase: str, salt: bytes, *, iterations: int, lanes: int, memory_kib: int
) -> bytes:
    """Return the key behind a passphrase; remembered, for it is slow on purpose."""
    text = unicodedata.normalize("NFC", passphrase).encode()
    try:
        kdf = Argon2id(
            salt=salt,
            length=_KEY_BYTES,
            iterations=iterations,
            lanes=lanes,
            memory_cost=memory_kib,
        )
        return kdf.derive(text)
    except UnsupportedAlgorithm as exc:
        msg = "this OpenSSL has no Argon2id: install a wheel of `cryptography`"
        raise UnavailableError(msg, code="engine-missing") from exc
    except MemoryError as exc:
        msg = f"there is no memory for the passphrase's {memory_kib} KiB"
        raise UnavailableError(msg) from exc


def _header(about: Json, lock: Json) -> bytes:
    return canonical_json({"format": _FORMAT, "about": about, "lock": lock})


def _is_lock(lock: Any) -> bool:
    """Whether a lock has the members of its kind, with values that can be meant."""
    if not isinstance(lock, dict):
        return False
    sizes = {"key": _KEY_BYTES}
    if lock.get("kind") == "passphrase":
        sizes = {"key": _KEY_BYTES + 16, "salt": _SALT_BYTES, "nonce": _NONCE_BYTES}
        cost = [lock.get(name) for name in _COST]
        if lock.get("kdf") != "argon2id" or not all(
            type(n) is int and 1 <= n <= most
            for n, most in zip(cost, _MOST.values(), strict=True)
        ):
            return False
        if lock["memory_kib"] < 8 * lock["lanes"]:
            return False
        names = {"kind", "kdf", *_COST, *sizes}
    else:
        names = {"kind", *sizes}
    return (
        lock.get("kind") in {"passphrase", "none"}
        and set(lock) == names
        and all(_has_bytes(lock[name], size) for name, size in sizes.items())
    )


def _has_bytes(text: Any, size: int) -> bool:
    try:
        return isinstance(text, str) and len(b64url_decode(text, what="")) == size
    except FormatError:
        return False


def _damaged(what: str) -> FormatError:
    msg = f"{what} is damaged: restore it from an export, or make new keys"
    return FormatError(msg, code="keys-damaged")
