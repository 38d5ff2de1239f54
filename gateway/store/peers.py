"""What is kept of peers: receipts of jobs that they ran, and their lies.

All gateways of a database distrust a peer together, once one of them met a lie.
"""

import sqlalchemy as sa

from gateway.store.audit import Act, Who, note
from gateway.store.database import Database
from gateway.store.tables import jobs, peer_lies, peer_receipts
from privacy.clock import now
from privacy.encoding import Json
from privacy.errors import NotFoundError

KEPT = 100
"""Lies that are kept of a peer."""

_US = Who(actor="gateway")  # not whoever submitted the job
_OF_PEER = peer_lies.c.peer == sa.bindparam("this_peer")


class PeerStore:
    """The two tables; thread-safe."""

    def __init__(self, database: Database) -> None:
        """Use the tables in `database`."""
        self._database = database

    def keep(self, c: sa.Connection, job_id: str, receipt: bytes) -> None:
        """Keep the receipt of the peer that ran a job, in the transaction that ends it.

        Only one run ends a job, so that it is the one that the job's own receipt names.
        """
        names = ["job_id", "tenant", "receipt"]
        kept = sa.literal(receipt, peer_receipts.c.receipt.type)
        of_job = sa.select(jobs.c.id, jobs.c.tenant, kept).where(jobs.c.id == job_id)
        insert = self._database.insert(peer_receipts)
        c.execute(
            insert.from_select(names, of_job).on_conflict_do_update(
                index_elements=["job_id"], set_={"receipt": insert.excluded.receipt}
            )
        )

    def receipt(self, job_id: str) -> bytes | None:
        """Return the receipt of the peer that ran a job, None if none did."""
        query = sa.select(peer_receipts.c.receipt).where(
            peer_receipts.c.job_id == job_id
        )
        with self._database.read() as c:
            found: bytes | None = c.execute(query).scalar()
        return found

    def add_lie(
        self, peer: str, *, code: str, message: str, said: Json, distrust_s: float
    ) -> None:
        """Keep what a peer did, and distrust it for so long."""
        with self._database.write() as c:
            c.execute(
                sa.insert(peer_lies),
                {
                    "peer": peer,
                    "job_id": str(said.get("job", "")),
                    "code": code,
                    "message": message,
                    "said": said,
                    "at": now(),
                    "distrusted_until": now(plus_s=distrust_s),
                },
            )
            why = {"code": code, "job": str(said.get("job", ""))}
            note(c, Act(action="peer-distrusted", target=peer, details=why, who=_US))
            newest = sa.select(peer_lies.c.id).where(_OF_PEER)
            first_gone = newest.order_by(peer_lies.c.id.desc()).offset(KEPT).limit(1)
            if gone := c.execute(first_gone, {"this_peer": peer}).scalar():
                older = sa.delete(peer_lies).where(_OF_PEER, peer_lies.c.id <= gone)
                c.execute(older, {"this_peer": peer})

    def distrusted(self) -> dict[str, str]:
        """Return why peers are distrusted now, by name."""
        query = (
            sa.select(peer_lies)
            .where(peer_lies.c.distrusted_until > now())
            .order_by(peer_lies.c.id)
        )
        with self._database.read() as c:
            return {
                row.peer: f"{row.message} ({row.code}, until {row.distrusted_until})"
                for row in c.execute(query)
            }

    def lies(self, peer: str, *, limit: int = KEPT) -> list[Json]:
        """Return what a peer did, the newest first."""
        query = sa.select(peer_lies).where(_OF_PEER).order_by(peer_lies.c.id.desc())
        with self._database.read() as c:
            rows = c.execute(query.limit(limit), {"this_peer": peer})
            return [dict(row._mapping) for row in rows]  # noqa: SLF001

    def trust(self, peer: str) -> None:
        """Distrust a peer no more; what it did stays on record.

        Raises:
            NotFoundError: It is not distrusted.
        """
        at = now()
        doubted = (_OF_PEER, peer_lies.c.distrusted_until > at)
        with self._database.write() as c:
            done = c.execute(
                sa.update(peer_lies).where(*doubted).values(distrusted_until=at),
                {"this_peer": peer},
            )
            if done.rowcount:
                note(c, Act(action="peer-trusted", target=peer))
        if not done.rowcount:
            msg = f"peer {peer[:63]!r} is not distrusted: see `privacy nodes`"
            raise NotFoundError(msg, code="unknown-peer")
