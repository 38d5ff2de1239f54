"""The gateway's receipt keys: Ed25519, one at a time, with a history (`key_history`).

The private key is one file, readable by its owner only, by default `receipt.key` in the
data folder. The history lies in the database. Gateways that share a database share the
key: one whose file is not the key of the day does not start, and one that loses it to a
rotation elsewhere stops signing when the old key ends.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.store.audit import Act, Who, note
from gateway.store.database import Database
from gateway.store.log_tables import receipt_key_history
from privacy.clock import now
from privacy.encoding import Json
from privacy.errors import ConflictError, UnavailableError
from privacy.files import locked, write_atomic
from privacy.jws import key_id
from privacy.key_history import begin, key_set, read_history, revoke, succeed
from privacy.publisher import load_private_key
from privacy.receipt import Receipt, sign_receipt
from privacy.transparency.tree_head import TreeHead, sign_head

KEY_FILE = "receipt.key"


class ReceiptKeys:
    """The key that signs receipts and tree heads, and those before it."""

    def __init__(self, path: Path, database: Database) -> None:
        """Load the key, made on first use.

        Raises:
            FormatError: The file is not a key of 32 bytes.
            UnavailableError: It is not the key of the day of this database.
        """
        self._path, self._database = path, database
        self._lock = Lock()
        self._private = load_private_key(path)
        self._history: list[Json] = []
        self._history = self._begun()
        self._adopt()
        if not self.is_current:
            raise UnavailableError(self._mismatch(), code="receipt-key-mismatch")

    @property
    def key_id(self) -> str:
        """Of the key that is at hand."""
        return key_id(self._private.public_key())

    def key_ids(self) -> tuple[str, ...]:
        """Return the ids of the key at hand and of those before it."""
        return (self.key_id, *read_history({"history": self._history}))

    @property
    def is_current(self) -> bool:
        """Whether the key at hand is the one that is to sign now."""
        return self._newest() == self.key_id

    def refresh(self) -> None:
        """Take over what another process changed: a rotation, a revocation."""
        with self._lock:
            self._history = self._stored()
            self._adopt()

    def served(self) -> Json:
        """Return the key set for `/.well-known/jwks.json`."""
        return key_set(self._history)

    def sign(self, receipt: Receipt) -> bytes:
        """Return the receipt file.

        Raises:
            UnavailableError: The key at hand has ended; see `rotate_key`.
        """
        return sign_receipt(receipt, self._usable())

    def sign_head(self, head: TreeHead) -> bytes:
        """Return the note of a tree head; see `sign`."""
        return sign_head(head, self._usable())

    def rotate(self, *, overlap_s: float, log_size: int | None, since: str) -> Json:
        """Make a new key, vouched for by the old; return the ids of both.

        Args:
            overlap_s: How long receipts of the old key still count, so that other
                gateways can take the new one over.
            log_size: If the old key is in the wrong hands, how many entries the log
                had before it was; None if it is not.
            since: Since when it is in the wrong hands; empty if it is not.
        """
        with self._lock:
            # Whoever sees the new file without the new history takes it for a rotation
            # that was broken off, and removes it: so they wait for the end of this one.
            with self._alone():
                self._take_over()
                if not self.is_current:
                    raise UnavailableError(
                        self._mismatch(), code="receipt-key-mismatch"
                    )
                old, new = self._private, Ed25519PrivateKey.generate()
                old_id = key_id(old.public_key())
                history = succeed(
                    self._history,
                    new,
                    old,
                    at=now(),
                    until=since or now(plus_s=overlap_s),
                )
                if log_size is not None:
                    history = revoke(
                        history, old_id, new, at=now(), since=since, log_size=log_size
                    )
                # The file of the new key first: once the database names it, it is
                # there.
                write_atomic(self._next, new.private_bytes_raw(), private=True)
                self._store(history, revoked=log_size is not None)
            self._adopt()
            return {"kid": self.key_id, "previous": old_id}

    def revoke(self, kid: str, *, log_size: int, since: str) -> None:
        """Say that an earlier key is in the wrong hands; see `rotate`.

        Raises:
            FormatError: It is the key of the day, or none of these.
        """
        with self._lock:
            self._history = self._stored()
            history = revoke(
                self._history,
                kid,
                self._private,
                at=now(),
                since=since,
                log_size=log_size,
            )
            self._store(history, revoked=True)

    @property
    def _next(self) -> Path:
        return self._path.with_name(f"{self._path.name}.next")

    def _newest(self) -> str:
        said = [e["statement"] for e in self._history]
        return str([s["kid"] for s in said if s["action"] != "revoked"][-1])

    def _usable(self) -> Ed25519PrivateKey:
        if self.is_current:
            return self._private
        known = read_history({"history": self._history})
        if self.key_id not in known or now() > known[self.key_id].until:
            raise UnavailableError(self._mismatch(), code="receipt-key-mismatch")
        return self._private

    def _mismatch(self) -> str:
        return (
            f"{self._path} is not the key of the day of this database, "
            f"{self._newest()[:12]}…: copy the file from a gateway that has it"
        )

    def _alone(self) -> AbstractContextManager[None]:
        """Keep other processes from the files of the key meanwhile."""
        return locked(self._path.with_name(f".{self._path.name}.lock"))

    def _adopt(self) -> None:
        """Use the key of the day if a rotation, or its operator, has put it here."""
        if self._next.exists():  # else the folder may well be read-only
            with self._alone():
                self._take_over()
        elif self._newest() != self.key_id:
            self._private = load_private_key(self._path)

    def _take_over(self) -> None:
        """Finish what another process began, and use what it made; see `_alone`."""
        self._history = self._stored()  # it may have been stored since it was read
        newest = self._newest()
        if self._next.exists():
            fresh = load_private_key(self._next)
            if key_id(fresh.public_key()) == newest:
                self._next.replace(self._path)
            elif newest == self.key_id:
                self._next.unlink()  # of a rotation that was broken off
        if newest != self.key_id:
            self._private = load_private_key(self._path)

    def _begun(self) -> list[Json]:
        """Return the history, which begins with the key at hand if there is none."""
        if history := self._stored():
            return history
        history = begin(self._private, at=now())
        try:
            self._store(history, actor="gateway")
        except ConflictError:  # another gateway was quicker
            return self._stored()
        return history

    def _stored(self) -> list[Json]:
        query = sa.select(receipt_key_history.c.statement)
        with self._database.read() as c:
            rows = c.execute(query.order_by(receipt_key_history.c.position))
            return list(rows.scalars())

    def _store(
        self, history: list[Json], *, revoked: bool = False, actor: str = "operator"
    ) -> None:
        """Add what a history has beyond ours, and take it over.

        Raises:
            ConflictError: Somebody else has added to it meanwhile.
        """
        fresh = list(enumerate(history))[len(self._history) :]
        rows = [{"position": i, "statement": entry} for i, entry in fresh]
        kids = [entry["statement"]["kid"] for _, entry in fresh]
        act = Act(
            action="receipt-key-revoked" if revoked else "receipt-key-made",
            target=kids[0],
            details={"statements": kids},
            who=Who(actor=actor),
        )
        try:
            with self._database.write() as c:
                c.execute(sa.insert(receipt_key_history), rows)
                note(c, act)
        except sa.exc.IntegrityError as exc:
            msg = "another process changed the receipt keys meanwhile: try again"
            raise ConflictError(msg, code="receipt-keys-changed") from exc
        self._history = history
