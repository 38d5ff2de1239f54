"""API keys: only digests are kept, each key belongs to one tenant.

Another gateway on the same database may revoke a key: what is remembered of keys is
never older than a second.
"""

import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace

import sqlalchemy as sa

from gateway.store.audit import Act, note
from gateway.store.database import Database
from gateway.store.tables import api_keys
from gateway.store.tenants import FRESH_S
from privacy.clock import later, now
from privacy.encoding import Json, b64url, b64url_decode, sha256_hex
from privacy.errors import (
    AuthError,
    ConflictError,
    FormatError,
    NotFoundError,
    UnavailableError,
)

PREFIX = "pk_"
_SECRET_BYTES = 32
_NOTED_EVERY_S = 60.0
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as we know it; the secret itself is not kept.

    Attributes:
        previous_until: Until when the secret before the last rotation works.
        last_used_at: To the minute.
    """

    id: str
    tenant: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    previous_until: str | None = None
    last_used_at: str | None = None


_CHOSEN = [api_keys.c[field.name] for field in fields(ApiKey)]
_DIGEST: sa.BindParameter[str] = sa.bindparam("digest")
_BY_DIGEST = sa.select(*_CHOSEN, api_keys.c.previous_sha256 == _DIGEST).where(
    sa.or_(api_keys.c.secret_sha256 == _DIGEST, api_keys.c.previous_sha256 == _DIGEST)
)


class ApiKeys:
    """The API keys of this database."""

    def __init__(self, database: Database) -> None:
        """Use the table in `database`."""
        self._database = database
        self._remembered: dict[str, tuple[float, ApiKey]] = {}

    def create(
        self,
        *,
        tenant: str,
        scopes: Sequence[str],
        name: str = "",
        expires_in_s: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Return a new key and its secret text, which cannot be had again."""
        key = ApiKey(
            id=f"key_{secrets.token_hex(8)}",
            tenant=tenant,
            name=name,
            scopes=sorted(set(scopes)),
            created_at=now(),
            expires_at=None if expires_in_s is None else now(plus_s=expires_in_s),
            revoked_at=None,
        )
        with self._database.write() as c:
            return key, _add(c, key)

    def recent(self, text: str) -> ApiKey | None:
        """Return the key behind its text if we knew it within the last second.

        Raises:
            AuthError: It has expired meanwhile.
        """
        at, key = self._remembered.get(_digest(text), (0.0, None))
        if key is None or time.monotonic() - at >= FRESH_S:
            return None
        _check_time(key)
        return key

    def authenticate(self, text: str) -> ApiKey:
        """Return the key behind its secret text.

        Raises:
            AuthError: There is none, or it was revoked or has expired.
        """
        digest = _digest(text)
        # Found by digest: no comparison whose time depends on the secret.
        with self._database.read() as c:
            row = c.execute(_BY_DIGEST, {"digest": digest}).one_or_none()
        *values, is_previous = row or (None,)
        key = ApiKey(*values) if row else None
        if key is None or key.revoked_at or (is_previous and not _overlaps(key)):
            self._remembered.pop(digest, None)
            msg = "this API key is not known or was revoked: ask the operator for one"
            raise AuthError(msg)
        _check_time(key)
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = time.monotonic(), key
        self._note_use(key)
        return key

    def all(self) -> list[ApiKey]:
        """Return every key, oldest first."""
        query = sa.select(*_CHOSEN).order_by(api_keys.c.created_at, api_keys.c.id)
        with self._database.read() as c:
            return [ApiKey(*row) for row in c.execute(query)]

    def find(self, key_id: str) -> ApiKey:
        """Return a key by its id.

        Raises:
            NotFoundError: There is none.
        """
        query = sa.select(*_CHOSEN).where(api_keys.c.id == key_id)
        with self._database.read() as c:
            row = c.execute(query).one_or_none()
        if row is None:
            raise unknown_key(key_id)
        return ApiKey(*row)

    def revoke(self, key_id: str) -> None:
        """End a key at once; revoking it again changes nothing.

        Raises:
            NotFoundError: There is no such key.
        """
        self.find(key_id)
        query = sa.update(api_keys).where(
            api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)
        )
        with self._database.write() as c:
            if c.execute(query.values(revoked_at=now(), previous_sha256=None)).rowcount:
                note(c, Act(action="key-revoked", target=key_id))
        self.forget()

    def rotate(
        self, key_id: str, *, overlap_s: float, expires_in_s: float | None = None
    ) -> tuple[ApiKey, str]:
        """Return a key and its new secret; the old one works a while longer.

        Args:
            key_id: The key.
            overlap_s: How long; whatever was the old one until now ends at once.
            expires_in_s: From now on; as before by default.

        Raises:
            NotFoundError: There is no such key.
            ConflictError: It was revoked.
        """
        key, (digest, text) = self.find(key_id), _new_secret()
        until = now(plus_s=overlap_s) if overlap_s else None
        expires = key.expires_at if expires_in_s is None else now(plus_s=expires_in_s)
        query = sa.update(api_keys).where(
            api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)
        )
        values = {
            "previous_sha256": api_keys.c.secret_sha256 if overlap_s else None,
            "previous_until": until,
            "secret_sha256": digest,
            "expires_at": expires,
        }
        with self._database.write() as c:
            if not c.execute(query.values(values)).rowcount:
                msg = f"API key {key_id} was revoked: make a new one"
                raise ConflictError(msg, code="key-revoked")
            note(c, Act(action="key-rotated", target=key_id))
        self.forget()
        return replace(key, previous_until=until, expires_at=expires), text

    def forget(self) -> None:
        """Remember nothing: keys have changed."""
        self._remembered.clear()

    def bootstrap(self) -> str | None:
        """Return the text of a new admin key if there is no key at all yet.

        Of gateways that start together on one database, one makes it.
        """
        first = ApiKey(
            id=f"key_{secrets.token_hex(8)}",
            tenant="default",
            name="bootstrap",
            scopes=["admin"],
            created_at=now(),
            expires_at=None,
            revoked_at=None,
        )
        with self._database.write() as c:
            self._database.lock(c, "first API key")
            if c.execute(sa.select(api_keys.c.id).limit(1)).first():
                return None
            return _add(c, first)

    def _note_use(self, key: ApiKey) -> None:
        if key.last_used_at and later(key.last_used_at, _NOTED_EVERY_S) > now():
            return
        query = sa.update(api_keys).where(api_keys.c.id == key.id)
        with suppress(UnavailableError), self._database.write() as c:
            c.execute(query.values(last_used_at=now()))


def _add(c: sa.Connection, key: ApiKey) -> str:
    """Write a new key; return its text."""
    digest, text = _new_secret()
    c.execute(sa.insert(api_keys).values(secret_sha256=digest, **asdict(key)))
    details: Json = {"tenant": key.tenant, "scopes": key.scopes}
    note(c, Act(action="key-made", target=key.id, details=details))
    return text


def unknown_key(key_id: str) -> NotFoundError:
    """Return the error for a key that does not exist, or not for who asks."""
    msg = f"there is no API key {key_id[:40]!r}"
    return NotFoundError(msg, code="unknown-api-key")


def _new_secret() -> tuple[str, str]:
    """Return a new secret's digest and text."""
    secret = secrets.token_bytes(_SECRET_BYTES)
    return sha256_hex(secret), PREFIX + b64url(secret)


def _overlaps(key: ApiKey) -> bool:
    return bool(key.previous_until and key.previous_until > now())


def _check_time(key: ApiKey) -> None:
    if key.expires_at and key.expires_at <= now():
        msg = f"this API key expired at {key.expires_at}: ask for a new one"
        raise AuthError(msg, code="key-expired")


def _digest(text: str) -> str:
    if not text.startswith(PREFIX):
        msg = f"this is not an API key: expected one that begins with {PREFIX}"
        raise AuthError(msg)
    try:
        return sha256_hex(b64url_decode(text.removeprefix(PREFIX), what="API key"))
    except FormatError:
        raise AuthError("this API key is damaged: copy it again, whole") from None
