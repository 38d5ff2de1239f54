"""Rows of uploads without files, for jobs that only the database knows."""

from gateway.store.database import Database
from gateway.store.tables import uploads
from privacy.clock import now


def uploaded(
    database: Database, sha256: str, *, tenant: str = "a", kind: str = "blob"
) -> None:
    """Have a tenant own an upload, unless it does; of one byte."""
    row = {"tenant": tenant, "kind": kind, "sha256": sha256, "bytes": 1}
    row |= {"keyset_sha256": "", "created_at": now(), "used_at": now()}
    with database.write() as c:
        c.execute(database.insert(uploads).on_conflict_do_nothing(), row)
