"""Whose uploads are here, how many bytes each tenant may keep, and for how long.

Two tenants that upload the same bytes share one file but never learn of each other. An
upload expires some time after its last use. A file that no upload and no job names any
more is removed; every such decision is taken in a transaction of its own kind
(`Uploads.removing`), so that it cannot cross one that needs the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from gateway.store.arrival import Room
from gateway.store.blobs import BlobRemovedError, BlobStore
from gateway.store.database import BLOBS, Database
from gateway.store.jobs import OPEN
from gateway.store.parts import Owner, Parts, unknown_upload
from gateway.store.tables import jobs, pins, uploads, usage
from gateway.store.tenants import Tenants
from privacy.clock import later, now
from privacy.errors import ConflictError, LimitError, NotFoundError

NAMING = (
    (uploads, "sha256"),
    (pins, "sha256"),
    (jobs, "output_sha256"),
    (jobs, "evidence_sha256"),
)
"""The columns that keep files; inputs and keys of open jobs are uploads, too."""

_TOUCH_SHARE = 0.02
_AT_ONCE = 500
_TRIES = 3
_NEW_FILE_S = 3600.0  # a job that ends now may not have named its output yet
_KEY = ("tenant", "kind", "sha256")
_THIS = sa.and_(*(uploads.c[name] == sa.bindparam(f"this_{name}") for name in _KEY))
_ONE = sa.select(uploads).where(_THIS)
_TOUCH = sa.update(uploads).where(_THIS).values(used_at=sa.bindparam("at"))
_FORGET = sa.delete(uploads).where(_THIS)
_OF_TENANT = uploads.c.tenant == sa.bindparam("this_tenant")
_KEPT = sa.select(usage.c.bytes).where(usage.c.tenant == sa.bindparam("this_tenant"))
_IS_OPEN = jobs.c.status.in_(OPEN)


@dataclass(frozen=True, slots=True)
class Upload:
    """What a tenant uploaded.

    Attributes:
        keyset_sha256: Which key set evaluation keys are of, as the tenant said; or "".
        used_at: When it was uploaded last, or a job used it.
    """

    tenant: str
    kind: str
    sha256: str
    bytes: int
    keyset_sha256: str
    created_at: str
    used_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What tenants may keep here, and how long.

    Attributes:
        max_bytes: Of one upload.
        quota_bytes: Of all uploads of a tenant together.
        ttl_s: By kind: how long an upload is kept after its last use.
    """

    max_bytes: int
    quota_bytes: int
    ttl_s: dict[str, float]


class Uploads:
    """The uploads of this gateway."""

    def __init__(
        self, database: Database, blobs: BlobStore, parts: Parts, allowance: Allowance
    ) -> None:
        """Know what is whole from `database` and `blobs`, what grows from `parts`."""
        self._database = database
        self._blobs = blobs
        self.parts = parts
        self.allowance = allowance
        self._tenants = Tenants(database)
        add = database.insert(uploads)
        bound = uploads.c.keyset_sha256
        self._own = add.on_conflict_do_update(
            index_elements=list(_KEY),
            set_={
                "used_at": add.excluded.used_at,
                "keyset_sha256": sa.case(
                    (bound == "", add.excluded.keyset_sha256), else_=bound
                ),
            },
        )
        more = database.insert(usage)
        self._count = more.on_conflict_do_update(
            index_elements=["tenant"],
            set_={"bytes": usage.c.bytes + more.excluded["bytes"]},
        )

    def room(self, owner: Owner) -> Room:
        """Return how large this upload may be, by the gateway's and tenant's limits."""
        with self._database.read() as c:
            kept = self._kept_bytes(c, owner.tenant) - self._known_bytes(c, owner)
        arriving = self.parts.bytes_of(owner.tenant) - self.parts.offset(owner)
        left = max(0, self.quota_bytes(owner.tenant) - kept - arriving)
        most = self.allowance.max_bytes
        msg = f"the upload has more than {most} bytes, the most this gateway takes"
        return Room(
            most,
            LimitError(msg, code="too-large"),
            left,
            self._over_quota(owner.tenant),
        )

    def own(self, part: Path, owner: Owner, *, keyset_sha256: str = "") -> bool:
        """Keep a received file for its owner; tell whether it is new to the tenant.

        The file goes, also if it cannot be kept: whoever sends it sends it again.

        Raises:
            LimitError: The tenant's quota was used up meanwhile.
            ConflictError: These keys were bound to another key set before.
            StoreAwayError: The database or the blobs are away.
        """
        at, size = now(), part.stat().st_size
        row = Upload(
            **asdict(owner),
            bytes=size,
            keyset_sha256=keyset_sha256,
            created_at=at,
            used_at=at,
        )
        try:
            is_new = self._keep(part, owner, row)
        finally:
            part.unlink(missing_ok=True)
        self.parts.discard(owner)
        return is_new

    def _keep(self, part: Path, owner: Owner, row: Upload) -> bool:
        """Have a file where blobs are, and its row; tell whether it is new."""
        tries = 0
        while True:
            self._blobs.bring(part, owner.sha256)
            try:
                return self._name(part, owner, row)
            except BlobRemovedError:
                if (tries := tries + 1) == _TRIES:
                    raise

    def _name(self, part: Path, owner: Owner, row: Upload) -> bool:
        """Write the row of an upload that is here; tell whether it is new."""
        quota = self.quota_bytes(owner.tenant)
        with self._database.write() as c:
            self._database.lock(c, BLOBS, shared=True)
            self._database.lock(c, f"uploads of {owner.tenant}")
            earlier = c.execute(_ONE, _this(owner)).one_or_none()
            _check_binding(earlier.keyset_sha256 if earlier else "", row.keyset_sha256)
            known = int(earlier.bytes) if earlier else 0
            kept = self._kept_bytes(c, owner.tenant) - known + row.bytes
            if kept > quota:
                raise self._over_quota(owner.tenant)
            self._blobs.keep(part, owner.sha256)
            c.execute(self._own, asdict(row))
            if not known:
                c.execute(self._count, {"tenant": owner.tenant, "bytes": row.bytes})
        return not known

    def own_bytes(self, content: bytes, owner: Owner) -> None:
        """Keep what is here as a whole for its owner, within its quota.

        Raises:
            LimitError: It is too large, or the tenant would keep too much.
        """
        self.room(owner).check(len(content))
        self.own(self.parts.write(content, owner), owner)

    def get(self, owner: Owner) -> Upload:
        """Return a tenant's upload.

        Raises:
            NotFoundError: The tenant uploaded no such blob, whoever else did, or it
                has expired.
        """
        with self._database.read() as c:
            row = c.execute(_ONE, _this(owner)).one_or_none()
        found = Upload(**row._mapping) if row else None  # noqa: SLF001
        if (
            found
            and not self._expired(found)
            and self._blobs.has(owner.sha256, found.bytes)
        ):
            return found
        raise unknown_upload(owner.kind, owner.sha256)

    def use(self, owner: Owner) -> Upload:
        """Return a tenant's upload, whose time begins anew.

        Raises:
            NotFoundError: As for `get`.
        """
        found = self.get(owner)
        fresh_s = _TOUCH_SHARE * self.allowance.ttl_s[owner.kind]
        if found.used_at < now(plus_s=-fresh_s):  # not at every job: a write costs
            with self._database.write() as c:
                touched = c.execute(_TOUCH, {**_this(owner), "at": now()})
            if not touched.rowcount:  # deleted meanwhile
                raise unknown_upload(owner.kind, owner.sha256)
        return found

    def of(self, tenant: str, kind: str) -> list[Upload]:
        """Return a tenant's uploads of a kind, the newest first."""
        query = (
            sa.select(uploads)
            .where(_OF_TENANT, uploads.c.kind == kind)
            .order_by(uploads.c.created_at.desc(), uploads.c.sha256)
        )
        with self._database.read() as c:
            rows = c.execute(query, {"this_tenant": tenant}).all()
        found = [Upload(**row._mapping) for row in rows]  # noqa: SLF001
        return [u for u in found if not self._expired(u)]

    def quota_bytes(self, tenant: str) -> int:
        """Return how much a tenant may keep here."""
        own = self._tenants.own(tenant).quota_bytes
        return self.allowance.quota_bytes if own is None else own

    def used_bytes(self, tenant: str) -> int:
        """Return how much of its quota a tenant has used."""
        with self._database.read() as c:
            return self._kept_bytes(c, tenant) + self.parts.bytes_of(tenant)

    def expires_at(self, upload: Upload) -> str:
        """Return when an upload expires unless a job uses it before."""
        return later(upload.used_at, self.allowance.ttl_s[upload.kind])

    def is_kept(self, c: sa.Connection, owner: Owner) -> bool:
        """Whether a tenant has an upload, in `removing`."""
        return c.execute(_ONE, _this(owner)).first() is not None

    def delete(self, owner: Owner) -> None:
        """Forget a tenant's upload; the file goes unless someone else needs it.

        Raises:
            NotFoundError: The tenant has no such upload.
            ConflictError: A job that has not finished needs it.
        """
        mine = (jobs.c.input_sha256, jobs.c.keys_sha256)
        needing = sa.select(sa.func.count()).where(
            _IS_OPEN,
            jobs.c.tenant == owner.tenant,
            sa.or_(*(column == owner.sha256 for column in mine)),
        )
        with self.removing() as c:
            if count := c.execute(needing).scalar_one():
                msg = f"{count} unfinished jobs need this upload: cancel them or wait"
                raise ConflictError(msg, code="upload-in-use")
            known = self.forget(c, owner)
            self.remove_unneeded(c, {owner.sha256})
        broken = self.parts.offset(owner)
        self.parts.discard(owner)
        if not known and not broken:
            msg = f"there is no upload {owner.sha256[:12]}… to delete"
            raise NotFoundError(msg, code=f"unknown-{owner.kind}")

    def sweep(self) -> int:
        """Remove uploads that have expired; return how many files went."""
        self.parts.sweep()
        removed = 0
        while True:
            with self.removing() as c:  # in parts: others name files meanwhile
                found = self._unneeded_owners(c)
                gone = {o.sha256 for o in found[:_AT_ONCE] if self.forget(c, o)}
                removed += self.remove_unneeded(c, gone)
            if len(found) <= _AT_ONCE:
                return removed

    def trim_copies(self) -> int:
        """Remove copies of blobs that are gone; others, if they take much room."""
        copies = sorted(self._blobs.copies())
        if not copies:
            return 0
        names, named = (jobs.c.input_sha256, jobs.c.keys_sha256), set[str]()
        with self._database.read() as c:
            for at in range(0, len(copies), _AT_ONCE):
                named |= _named(c, set(copies[at : at + _AT_ONCE]))
            rows = c.execute(sa.select(*names).where(_IS_OPEN)).all()
        in_use = {name for row in rows for name in row}
        return self._blobs.trim(in_use=in_use, gone=set(copies) - named)

    def remove_lost_files(self, *, older_than_s: float = _NEW_FILE_S) -> int:
        """Remove files that a crash left, or an outage, without anyone who names them.

        Args:
            older_than_s: Younger files stay: a job may be about to name them.
        """
        found, removed = sorted(self._blobs.older_than(older_than_s)), 0
        for at in range(0, len(found), _AT_ONCE):
            some = set(found[at : at + _AT_ONCE])
            with self._database.read() as c:  # nearly all are named: hold up nobody
                lost = some - _named(c, some)
            if lost:
                with self.removing() as c:
                    removed += self.remove_unneeded(c, lost)
        return removed

    @contextmanager
    def removing(self) -> Iterator[sa.Connection]:
        """Give a write transaction in which nobody else names a file."""
        with self._database.write() as c:
            self._database.lock(c, BLOBS)
            yield c

    def forget(self, c: sa.Connection, owner: Owner) -> bool:
        """Delete the row of an upload, in `removing`; tell whether there was one."""
        size = self._known_bytes(c, owner)
        if not size or not c.execute(_FORGET, _this(owner)).rowcount:
            return False
        c.execute(self._count, {"tenant": owner.tenant, "bytes": -size})
        return True

    def remove_unneeded(self, c: sa.Connection, candidates: set[str]) -> int:
        """Remove those of these files that nothing names; return how many.

        Args:
            c: Of `removing`.
            candidates: Their digests.
        """
        if not candidates:
            return 0
        return self._blobs.remove(candidates - _named(c, candidates))

    def _expired(self, upload: Upload) -> bool:
        return self.expires_at(upload) <= now()

    def _unneeded_owners(self, c: sa.Connection) -> list[Owner]:
        """Return whose uploads have expired and are needed by no open job."""
        needed = {
            (tenant, sha256)
            for column in (jobs.c.input_sha256, jobs.c.keys_sha256)
            for tenant, sha256 in c.execute(
                sa.select(jobs.c.tenant, column).where(_IS_OPEN)
            )
        }
        expired = self._expired_owners(c)
        return [o for o in expired if (o.tenant, o.sha256) not in needed]

    def _expired_owners(self, c: sa.Connection) -> list[Owner]:
        return [
            Owner(tenant, kind, sha256)
            for kind, ttl_s in self.allowance.ttl_s.items()
            for tenant, sha256 in c.execute(
                sa.select(uploads.c.tenant, uploads.c.sha256).where(
                    uploads.c.kind == kind, uploads.c.used_at <= now(plus_s=-ttl_s)
                )
            ).all()
        ]

    def _known_bytes(self, c: sa.Connection, owner: Owner) -> int:
        row = c.execute(_ONE, _this(owner)).one_or_none()
        return int(row.bytes) if row else 0

    def _kept_bytes(self, c: sa.Connection, tenant: str) -> int:
        kept = c.execute(_KEPT, {"this_tenant": tenant}).scalar_one_or_none()
        return int(kept or 0)

    def _over_quota(self, tenant: str) -> LimitError:
        msg = (
            f"with this upload the tenant would keep more than its quota of "
            f"{self.quota_bytes(tenant)} bytes: delete uploads it no longer needs "
            "(`privacy keys uploads`), or ask the operator for more"
        )
        return LimitError(msg, code="quota-exceeded")


def _named(c: sa.Connection, candidates: set[str]) -> set[str]:
    """Return those of these digests that something names, and perhaps more."""
    naming = [
        *(
            sa.select(table.c[name]).where(table.c[name].in_(candidates))
            for table, name in NAMING
        ),
        *(
            sa.select(column).where(_IS_OPEN)
            for column in (jobs.c.input_sha256, jobs.c.keys_sha256)
        ),
    ]
    return set(c.execute(sa.union(*naming)).scalars())


def _check_binding(bound: str, keyset_sha256: str) -> None:
    """Refuse to bind evaluation keys to another key set than before."""
    if bound and keyset_sha256 and bound != keyset_sha256:
        msg = (
            f"these evaluation keys were uploaded for key set {bound[:12]}…, now for "
            f"{keyset_sha256[:12]}…: delete them first if that was wrong"
        )
        raise ConflictError(msg, code="keyset-bound")


def _this(owner: Owner) -> dict[str, str]:
    return {f"this_{name}": getattr(owner, name) for name in _KEY}
