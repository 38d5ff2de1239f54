"""The data owner's FHE keys on disk: one sealed file for each, and notes beside it.

    keys/ID.sealed   the keys of one key set; see `privacy.client.sealed`
    keys/ID.json     not secret: models that used them, uploads, when they were retired

Of each key set one key is current: the newest that is not retired. A retired one is
kept, so that answers encrypted under it can still be opened, until it is deleted.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from privacy.client.home import Home
from privacy.client.passphrase import Unlock
from privacy.client.sealed import (
    MAX_HEADER_BYTES,
    Header,
    content_key_of,
    read_header,
    seal,
    unseal,
)
from privacy.clock import now
from privacy.encoding import (
    Json,
    b64url_decode,
    canonical_json,
    check_sha256,
    parse_object,
)
from privacy.errors import AuthError, ConflictError, FormatError, NotFoundError
from privacy.fhe.client import read_keys
from privacy.files import write_atomic

_KEY_ID = re.compile(r"[0-9a-f]{16}")
_ABOUT = {"key_id", "keyset_sha256", "created_at", "bytes"}
_NOTES = {"models": dict, "uploads": dict, "evaluation_sha256": str, "retired_at": str}
_KIND = "fhe-keys"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is known of a key without opening it.

    Attributes:
        key_id: Names it here and in exports.
        keyset_sha256: The key set it serves; several models may share one.
        bytes: Size of the secret.
        is_protected: Whether a passphrase is needed to use it.
        retired_at: When another took its place; "" if it is current.
        evaluation_sha256: Digest of its evaluation keys, "" if not known yet.
        models: Digests by `name/version`, as far as known.
        uploads: When its evaluation keys were uploaded, by gateway, as far as known.
    """

    key_id: str
    keyset_sha256: str
    created_at: str
    bytes: int
    is_protected: bool
    retired_at: str = ""
    evaluation_sha256: str = ""
    models: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)


class KeyStore:
    """The keys in a data owner's folder. Safe for several threads and processes."""

    def __init__(self, home: Home, unlock: Unlock) -> None:
        """Use the folder `keys` of a home; `unlock` opens what is in it."""
        self._home = home
        self.root = home.root / "keys"
        self.unlock = unlock

    def all(self) -> list[KeyInfo]:
        """Return every key, the newest first.

        Raises:
            FormatError: A file is damaged.
        """
        found = [self.info(p.stem) for p in self.root.glob("*.sealed")]
        return sorted(found, key=lambda k: (k.created_at, k.key_id), reverse=True)

    def info(self, key_id: str) -> KeyInfo:
        """Return what is known of a key.

        Raises:
            NotFoundError: There is none of that id.
            FormatError: Its file is damaged.
        """
        header = self._header(key_id)
        about = _about(header, key_id)
        del about["kind"]
        notes = self._notes(key_id)
        return KeyInfo(**about, is_protected=header.is_protected, **notes)

    def current(self, keyset_sha256: str) -> KeyInfo | None:
        """Return the key that a key set's jobs use, None if there is none yet."""
        fits = [
            k
            for k in self.all()
            if k.keyset_sha256 == keyset_sha256 and not k.retired_at
        ]
        return fits[0] if fits else None

    def load(self, key_id: str) -> bytes:
        """Return the secret.

        Raises:
            NotFoundError: There is none of that id.
            FormatError: Its file is damaged.
            AuthError: The passphrase is missing or wrong, or the key is not protected
                though others are, and plaintext keys are not allowed.
        """
        path = self._path(key_id)
        header = self._header(key_id)
        if not header.is_protected:
            self._check_not_planted(key_id)
        with _asking_again(self.unlock):
            phrase = self.unlock.passphrase() if header.is_protected else None
            return unseal(path.read_bytes(), passphrase=phrase, what=path.name)

    def check_can_add(self) -> None:
        """Refuse what `add` would refuse, before minutes are spent on making keys.

        Raises:
            AuthError: There is no passphrase, and plaintext keys are not allowed; or it
                is not the one of the keys that are here.
        """
        with self._adding():
            self._new_passphrase()

    def add(self, keyset_sha256: str, secret: bytes) -> KeyInfo:
        """Keep new keys as the current ones of their key set; retire those before.

        Raises:
            AuthError: As for `check_can_add`.
        """
        about = {
            "kind": _KIND,
            "key_id": secrets.token_hex(8),
            "keyset_sha256": check_sha256(keyset_sha256, what="key set"),
            "created_at": now(),
            "bytes": len(secret),
        }
        with self._adding():
            return self._put(secret, about)

    def note(
        self,
        key_id: str,
        *,
        models: dict[str, str] | None = None,
        uploads: dict[str, str] | None = None,
        not_uploaded: str = "",
        evaluation_sha256: str = "",
        retired_at: str = "",
    ) -> None:
        """Remember what became of a key.

        Raises:
            NotFoundError: There is none of that id.
        """
        self._check_id(key_id)
        with self._locked():
            notes = self._notes(key_id)
            uploaded = {**notes.get("uploads", {}), **(uploads or {})}
            uploaded.pop(not_uploaded, None)
            new = {
                "models": {**notes.get("models", {}), **(models or {})},
                "uploads": uploaded,
                "evaluation_sha256": evaluation_sha256
                or notes.get("evaluation_sha256", ""),
                "retired_at": retired_at or notes.get("retired_at", ""),
            }
            if new != notes:
                raw = canonical_json(new)
                write_atomic(self._notes_path(key_id), raw, private=True)

    def remove(self, key_id: str) -> None:
        """Delete a key for good: what was encrypted under it opens no more.

        Raises:
            NotFoundError: There is none of that id.
        """
        path = self._check_id(key_id)
        with self._locked():
            path.unlink(missing_ok=True)
            self._notes_path(key_id).unlink(missing_ok=True)

    def export(self, key_id: str, target: Path, *, passphrase: str) -> None:
        """Write a key to a file of its own, under a passphrase of its own.

        Raises:
            ConflictError: The file exists.
            FormatError: The passphrase is too short.
        """
        if target.exists():
            raise ConflictError(f"{target} exists: name another", code="file-exists")
        about = self._header(key_id).about
        content = seal(self.load(key_id), about=about, passphrase=passphrase)
        write_atomic(target, content, private=True)

    def import_(self, source: Path, *, passphrase: str | None) -> KeyInfo:
        """Keep the key in an exported file as the current one of its key set.

        Raises:
            FormatError: No such file, a damaged one, or no keys of that key set in it.
            AuthError: The passphrase is missing or wrong.
            ConflictError: The key is here already.
        """
        if not source.is_file():
            raise FormatError(f"there is no file {source}", code="no-such-file")
        raw = source.read_bytes()
        header = read_header(raw, what=source.name)
        about = _about(header, None)
        with self._adding():
            if self._path(about["key_id"]).exists():
                msg = f"key {about['key_id']} is here already: delete it first"
                raise ConflictError(msg, code="key-exists")
            secret = unseal(raw, passphrase=passphrase, what=source.name)
            read_keys(secret, about["keyset_sha256"])
            return self._put(secret, about)

    @contextmanager
    def making(self, keyset_sha256: str) -> Iterator[None]:
        """Keep others from making keys for the same key set meanwhile."""
        with self._home.locked(f"keys-{keyset_sha256[:16]}"):
            yield

    def _put(self, secret: bytes, about: Json) -> KeyInfo:
        phrase, salt = self._new_passphrase()
        content = seal(secret, about=about, passphrase=phrase, salt=salt)
        before = [
            k
            for k in self.all()
            if k.keyset_sha256 == about["keyset_sha256"] and not k.retired_at
        ]
        write_atomic(self._path(about["key_id"]), content, private=True)
        for key in before:
            self.note(key.key_id, retired_at=now())
        return self.info(about["key_id"])

    def _new_passphrase(self) -> tuple[str | None, bytes | None]:
        """Return the passphrase for another key, and the salt of those before."""
        protected = [
            (p.stem, h)
            for p in sorted(self.root.glob("*.sealed"))
            if (h := self._header(p.stem)).is_protected
        ]
        with _asking_again(self.unlock):
            phrase = self.unlock.new_passphrase(is_first=not protected)
            if phrase is None or not protected:
                return phrase, None
            key_id, header = protected[0]
            what = f"key {key_id}, which is here already"
            content_key_of(header, phrase, what=what)
        return phrase, b64url_decode(header.lock["salt"], what="salt")

    def _check_not_planted(self, key_id: str) -> None:
        """Refuse an unprotected key among protected ones.

        Whoever can write to the disk but has no passphrase could put one there that
        they know, and read all that is encrypted under it.
        """
        if not self.unlock.allow_plaintext and any(k.is_protected for k in self.all()):
            msg = (
                f"key {key_id} is not protected, though others here are: if you did "
                "not make it so, delete it; else use it with --allow-plaintext-keys"
            )
            raise AuthError(msg, code="key-not-protected")

    def _header(self, key_id: str) -> Header:
        path = self._check_id(key_id)
        with path.open("rb") as file:
            return read_header(file.read(MAX_HEADER_BYTES + 64), what=path.name)

    def _notes(self, key_id: str) -> Json:
        path = self._notes_path(key_id)
        if not path.is_file():
            return {}
        notes = parse_object(path.read_bytes(), what=path.name)
        if any(type(value) is not _NOTES.get(name) for name, value in notes.items()):
            msg = (
                f"{path.name} holds no notes of ours on a key: delete it; the key "
                "stays, and is current again if it was retired"
            )
            raise FormatError(msg, code="keys-damaged")
        return notes

    def _check_id(self, key_id: str) -> Path:
        path = self._path(key_id)
        if not path.is_file():
            msg = f"there is no key {key_id}: see `privacy keys list`"
            raise NotFoundError(msg, code="unknown-key")
        return path

    def _path(self, key_id: str) -> Path:
        if not _KEY_ID.fullmatch(key_id):
            raise FormatError(f"{key_id[:40]!r} is no key id of 16 hex digits")
        return self.root / f"{key_id}.sealed"

    def _notes_path(self, key_id: str) -> Path:
        return self._path(key_id).with_suffix(".json")

    def _locked(self) -> AbstractContextManager[None]:
        return self._home.locked("keys")

    def _adding(self) -> AbstractContextManager[None]:
        """Keep others from adding keys meanwhile: all are under one passphrase.

        Notes have a lock of their own; nobody's wait for a passphrase to be typed.
        """
        return self._home.locked("keys-added")


def _about(header: Header, key_id: str | None) -> Json:
    """Return what a header says of a key, if it says it as `add` writes it."""
    about = dict(header.about)
    texts = [about.get(name) for name in ("key_id", "keyset_sha256", "created_at")]
    if (
        set(about) != {"kind", *_ABOUT}
        or about["kind"] != _KIND
        or not all(isinstance(text, str) for text in texts)
        or type(about["bytes"]) is not int
        or not _KEY_ID.fullmatch(about["key_id"])
        or key_id not in {None, about["key_id"]}
    ):
        msg = f"key {key_id or ''} is no key file of ours: restore it from an export"
        raise FormatError(msg, code="keys-damaged")
    check_sha256(about["keyset_sha256"], what="key set")
    return about


@contextmanager
def _asking_again(unlock: Unlock) -> Iterator[None]:
    """Let a wrong passphrase not stay."""
    try:
        yield
    except AuthError:
        unlock.forget()
        raise
