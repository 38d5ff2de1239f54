"""Inputs that requesters hand over for contracts, until a watcher fetches them.

Each is a blob and an upload of its tenant's, within its quota. A row names it by model
and commitment:

    MODEL-COMMITMENT.json      in the clear, to prove
    MODEL-COMMITMENT.sealed    for an enclave
"""

from dataclasses import dataclass

import sqlalchemy as sa

from gateway.store.blobs import BlobRemovedError, BlobStore
from gateway.store.database import Database
from gateway.store.parts import Owner
from gateway.store.tables import contract_inputs
from gateway.store.uploads import Uploads
from privacy.clock import now
from privacy.encoding import sha256_hex
from privacy.errors import LimitError, NotFoundError

MAX_BYTES = 1 << 20
MAX_BY_TENANT = 10_000
KIND = "contract-input"
_MODEL_DIGITS = 32
_AT_ONCE = 500
_TRIES = 3
_C = contract_inputs.c


@dataclass(frozen=True, slots=True)
class Name:
    """What an input is asked for by; digests in hex."""

    model_sha256: str
    commitment: str
    is_sealed: bool

    @property
    def text(self) -> str:
        """As the row has it."""
        kind = "sealed" if self.is_sealed else "json"
        return f"{self.model_sha256[:_MODEL_DIGITS]}-{self.commitment}.{kind}"


class ContractInputs:
    """The inputs of one gateway, or of several that share a database."""

    def __init__(
        self, database: Database, blobs: BlobStore, uploads: Uploads, *, ttl_s: float
    ) -> None:
        """Keep inputs as `uploads` of the kind `KIND`, each for `ttl_s` seconds."""
        self._database, self._blobs, self._uploads = database, blobs, uploads
        self._ttl_s = ttl_s
        add = database.insert(contract_inputs)
        self._name = add.on_conflict_do_update(
            index_elements=["tenant", "name"], set_={"sha256": add.excluded.sha256}
        )

    def put(self, tenant: str, name: Name, body: bytes) -> bool:
        """Keep an input; return whether it is new. The tenant's own is replaced.

        What replaces another is as old as that: otherwise whoever squats on a
        commitment would come first once the requester hands the input over again.

        Raises:
            LimitError: The tenant has too many, or its quota is used up.
            BlobRemovedError: The same bytes are deleted again and again meanwhile.
        """
        this = sa.and_(_C.tenant == tenant, _C.name == name.text)
        before = sa.select(_C.sha256).where(this)
        with self._database.read() as c:
            is_new = c.execute(before).first() is None
            count = sa.select(sa.func.count()).where(_C.tenant == tenant)
            if is_new and c.execute(count).scalar_one() >= MAX_BY_TENANT:
                msg = f"{tenant} has handed over {MAX_BY_TENANT} inputs: delete some"
                raise LimitError(msg, code="too-many-inputs")
        owner = Owner(tenant, KIND, sha256_hex(body))
        for _ in range(_TRIES):
            self._uploads.own_bytes(body, owner)
            with self._uploads.removing() as c:
                if not self._uploads.is_kept(c, owner):
                    continue  # it was deleted just now, under another name
                replaced = c.execute(before).scalar_one_or_none()
                c.execute(self._name, _row(owner, name))
                if replaced not in {None, owner.sha256}:
                    self._drop(c, tenant, replaced)
                return replaced is None
        msg = "this input was deleted while it was handed over: try again"
        raise BlobRemovedError(msg)

    def get(self, name: Name, *, tenant: str = "") -> bytes:
        """Return an input: a tenant's own, or the oldest of anybody's.

        Raises:
            NotFoundError: It was not handed over, or too long ago.
        """
        query = sa.select(_C.sha256).where(
            _C.name == name.text, _C.created_at > now(plus_s=-self._ttl_s)
        )
        if tenant:
            query = query.where(_C.tenant == tenant)
        with self._database.read() as c:
            found = c.execute(query.order_by(_C.created_at, _C.tenant)).scalar()
        try:
            if found:
                return self._blobs.fetch(found).read_bytes()
        except (FileNotFoundError, NotFoundError):
            pass  # deleted just now
        msg = "no input of this commitment was handed over"
        raise NotFoundError(msg, code="unknown-input")

    def delete(self, tenant: str, name: Name) -> None:
        """Remove a tenant's input; removing it again changes nothing."""
        this = sa.and_(_C.tenant == tenant, _C.name == name.text)
        with self._uploads.removing() as c:
            found = c.execute(sa.select(_C.sha256).where(this)).scalar_one_or_none()
            c.execute(sa.delete(contract_inputs).where(this))
            if found:
                self._drop(c, tenant, found)

    def sweep(self) -> int:
        """Remove what has expired; return how many."""
        old = sa.select(contract_inputs).where(
            _C.created_at <= now(plus_s=-self._ttl_s)
        )
        removed = 0
        while True:
            with self._uploads.removing() as c:
                rows = c.execute(old.limit(_AT_ONCE)).all()
                for row in rows:
                    this = sa.and_(_C.tenant == row.tenant, _C.name == row.name)
                    c.execute(sa.delete(contract_inputs).where(this))
                    self._drop(c, row.tenant, row.sha256)
            removed += len(rows)
            if len(rows) < _AT_ONCE:
                return removed

    def _drop(self, c: sa.Connection, tenant: str, sha256: str) -> None:
        """Forget the upload of an input that had a name, unless it has another."""
        named = sa.select(_C.name).where(_C.tenant == tenant, _C.sha256 == sha256)
        if c.execute(named.limit(1)).first() is None:
            self._uploads.forget(c, Owner(tenant, KIND, sha256))
            self._uploads.remove_unneeded(c, {sha256})


def _row(owner: Owner, name: Name) -> dict[str, str]:
    return {
        "tenant": owner.tenant,
        "name": name.text,
        "sha256": owner.sha256,
        "created_at": now(),
    }
