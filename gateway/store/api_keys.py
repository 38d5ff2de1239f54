"""API keys: only digests are kept, each key belongs to one tenant."""

import secrets
import threading
from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa

from gateway.store.audit import Act, note
from gateway.store.database import Database
from gateway.store.tables import api_keys
from privacy.clock import now
from privacy.encoding import Json, b64url, b64url_decode, sha256_hex
from privacy.errors import AuthError, FormatError, NotFoundError

PREFIX = "pk_"
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as we know it; the secret itself is not kept."""

    id: str
    tenant: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class ApiKeys:
    """The API keys, all in memory; what other gateways change comes by `refresh`."""

    def __init__(self, database: Database) -> None:
        """Load the keys in `database`."""
        self._database = database
        self._changing = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Load the keys anew: another gateway may have made or revoked some."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        with self._changing:  # or a key made meanwhile would be forgotten
            with self._database.read() as connection:
                rows = [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001
            self._by_digest = {row.pop("secret_sha256"): ApiKey(**row) for row in rows}

    def create(
        self,
        *,
        tenant: str,
        scopes: list[str],
        name: str = "",
        expires_in_s: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Return a new key and its secret text, which cannot be had again."""
        secret = secrets.token_bytes(_SECRET_BYTES)
        key = ApiKey(
            id=f"key_{secrets.token_hex(8)}",
            tenant=tenant,
            name=name,
            scopes=sorted(set(scopes)),
            created_at=now(),
            expires_at=None if expires_in_s is None else now(plus_s=expires_in_s),
            revoked_at=None,
        )
        digest = sha256_hex(secret)
        with self._changing:
            with self._database.write() as connection:
                connection.execute(
                    sa.insert(api_keys).values(secret_sha256=digest, **asdict(key))
                )
                details: Json = {"tenant": tenant, "scopes": key.scopes}
                note(connection, Act(action="key-made", target=key.id, details=details))
            self._by_digest[digest] = key
        return key, PREFIX + b64url(secret)

    def authenticate(self, text: str) -> ApiKey:
        """Return the key behind its secret text.

        Raises:
            AuthError: There is none, or it was revoked or has expired.
        """
        # Found by digest: no comparison whose time depends on the secret.
        key = self._by_digest.get(_digest(text))
        if key is None or key.revoked_at:
            msg = "this API key is not known or was revoked: ask the operator for one"
            raise AuthError(msg)
        if key.expires_at and key.expires_at <= now():
            msg = f"this API key expired at {key.expires_at}: ask for a new one"
            raise AuthError(msg, code="key-expired")
        return key

    def all(self) -> list[ApiKey]:
        """Return every key, oldest first."""
        return list(self._by_digest.values())

    def find(self, key_id: str) -> ApiKey:
        """Return a key by its id.

        Raises:
            NotFoundError: There is none.
        """
        for key in self._by_digest.values():
            if key.id == key_id:
                return key
        raise unknown_key(key_id)

    def revoke(self, key_id: str) -> None:
        """End a key at once; revoking it again changes nothing.

        Raises:
            NotFoundError: There is no such key.
        """
        found = [(d, k) for d, k in self._by_digest.items() if k.id == key_id]
        if not found:
            raise unknown_key(key_id)
        digest, key = found[0]
        if key.revoked_at:
            return
        revoked = replace(key, revoked_at=now())
        with self._changing:
            with self._database.write() as connection:
                connection.execute(
                    sa.update(api_keys)
                    .where(api_keys.c.id == key_id)
                    .values(revoked_at=revoked.revoked_at)
                )
                note(connection, Act(action="key-revoked", target=key_id))
            self._by_digest[digest] = revoked

    def bootstrap(self) -> str | None:
        """Return the text of a new admin key if there is no key at all yet."""
        if self._by_digest:
            return None
        _, text = self.create(tenant="default", scopes=["admin"], name="bootstrap")
        return text


def unknown_key(key_id: str) -> NotFoundError:
    """Return the error for a key that does not exist, or not for who asks."""
    msg = f"there is no API key {key_id[:40]!r}"
    return NotFoundError(msg, code="unknown-api-key")


def _digest(text: str) -> str:
    if not text.startswith(PREFIX):
        msg = f"this is not an API key: expected one that begins with {PREFIX}"
        raise AuthError(msg)
    try:
        return sha256_hex(b64url_decode(text.removeprefix(PREFIX), what="API key"))
    except FormatError:
        raise AuthError("this API key is damaged: copy it again, whole") from None
