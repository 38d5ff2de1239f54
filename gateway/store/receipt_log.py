"""The log of receipts: a Merkle tree (RFC 9162) over all of them, and its signed heads.

A receipt belongs in the log once its job has ended; `jobs.log_index` says where it is,
or that it is in no log yet. `integrate` adds what is missing, in one transaction under
the lock of the row in `log_state`: with several gateways one adds, and nothing is lost
or added twice when one dies. Hashes of complete subtrees are kept, so a proof reads
O(log n) of them.
"""

from collections.abc import Callable, Iterable

import sqlalchemy as sa

from gateway.store.database import Database
from gateway.store.log_tables import (
    audit_state,
    log_heads,
    log_leaves,
    log_nodes,
    log_state,
)
from gateway.store.tables import jobs
from privacy.clock import later, now
from privacy.errors import NotFoundError
from privacy.transparency.merkle import (
    Node,
    append,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    range_hash,
    subtrees,
)
from privacy.transparency.tree_head import TreeHead

Sign = Callable[[TreeHead], bytes]
MOST_LEAVES = 1000
_AT_ONCE = 500
_HOUR = len("2026-11-21T15")
_UNLOGGED = sa.and_(jobs.c.log_index.is_(None), jobs.c.receipt.is_not(None))
_WAITING = sa.select(jobs.c.id).where(_UNLOGGED).limit(1)
_MANY = 10_000
_NEXT = (
    sa.select(jobs.c.id, jobs.c.receipt)
    .where(_UNLOGGED)
    .order_by(jobs.c.finished_at, jobs.c.seq)
    .limit(_AT_ONCE)
)
_PLACE = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("job_id"))
    .values(log_index=sa.bindparam("at"))
)
_NEWEST = sa.select(log_heads).order_by(log_heads.c.id.desc()).limit(1)


class ReceiptLog:
    """The log of one gateway, or of several that share a database."""

    def __init__(self, database: Database) -> None:
        """Use the tables in `database`."""
        self._database = database

    def integrate(self, *, most_age_s: float, sign: Sign) -> int:
        """Add receipts that are in no log yet and sign a new head; return how many.

        What comes meanwhile waits for the next call: under load there is always more.

        Args:
            most_age_s: Sign a head, too, if the last one is older.
            sign: Makes the note of a tree head.
        """
        added, count = 0, _AT_ONCE
        while count == _AT_ONCE and self._is_due(most_age_s):
            with self._database.write() as c:
                state = c.execute(sa.select(log_state).with_for_update()).one()
                count = _add(c, state.size)
                self._sign(c, state.origin, state.size + count, sign, most_age_s)
            added += count
        return added

    def _is_due(self, most_age_s: float) -> bool:
        """Whether there is anything to add or to sign; reads only."""
        with self._database.read() as c:
            if c.execute(_WAITING).first():
                return True
            return _is_stale(c, most_age_s)

    def _sign(
        self, c: sa.Connection, origin: str, size: int, sign: Sign, most_age_s: float
    ) -> None:
        """Sign the head of a tree of that size, unless the last one says all of it."""
        if not _is_stale(c, most_age_s, size=size):
            return
        audit = c.execute(sa.select(audit_state)).one()
        root = range_hash(_hashes(c, subtrees(0, size)).__getitem__, 0, size)
        head = TreeHead(origin, size, root, now(), audit.size, audit.sha256)
        before = c.execute(_NEWEST).one_or_none()
        # Of every hour the last head stays.
        if before and before.signed_at[:_HOUR] == head.time[:_HOUR]:
            c.execute(sa.delete(log_heads).where(log_heads.c.id == before.id))
        values = {"size": size, "audit_size": audit.size, "signed_at": head.time}
        c.execute(sa.insert(log_heads).values(**values, note=sign(head)))

    def behind(self) -> int:
        """Return how many receipts are not in the log yet, 10,000 at most."""
        few = sa.select(jobs.c.id).where(_UNLOGGED).limit(_MANY).subquery()
        query = sa.select(sa.func.count()).select_from(few)
        with self._database.read() as c:
            count: int = c.execute(query).scalar_one()
        return count

    def head(self) -> bytes:
        """Return the newest tree head, signed.

        Raises:
            NotFoundError: None was signed yet: the gateway is just starting.
        """
        with self._database.read() as c:
            newest = c.execute(_NEWEST).one_or_none()
        if newest is None:
            msg = "no tree head was signed yet: try again in a second"
            raise NotFoundError(msg, code="no-tree-head")
        note: bytes = newest.note
        return note

    def heads(self, *, limit: int) -> list[bytes]:
        """Return the heads that were kept, the newest first: the last of each hour."""
        query = sa.select(log_heads.c.note).order_by(log_heads.c.id.desc())
        with self._database.read() as c:
            return list(c.execute(query.limit(limit)).scalars())

    def prove_inclusion(self, leaf: bytes, size: int) -> tuple[int, list[bytes]]:
        """Return the index of a leaf and its path to the root of the tree of a size.

        Raises:
            NotFoundError: There is no such leaf, or the tree is not that large.
        """
        query = sa.select(log_leaves.c.leaf_index).where(log_leaves.c.leaf_hash == leaf)
        with self._database.read() as c:
            index = c.execute(query.order_by(log_leaves.c.leaf_index)).scalar()
            if index is None or index >= size or size > _size(c):
                msg = (
                    f"the first {size} entries of the log have no such receipt; one is "
                    "logged within seconds of its job's end: try again"
                )
                raise NotFoundError(msg, code="not-in-log")
            return index, _proof(c, inclusion_ranges(index, size))

    def prove_consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the tree of size `new` begins with that of `old`.

        Raises:
            FormatError: `old` is 0 or larger than `new`.
            NotFoundError: The tree is not that large.
        """
        ranges = consistency_ranges(old, new)
        with self._database.read() as c:
            if new > (size := _size(c)):
                msg = f"the log has {size} entries, not {new}: give a lower size"
                raise NotFoundError(msg, code="not-in-log")
            return _proof(c, ranges)

    def leaves(self, start: int, limit: int) -> list[bytes]:
        """Return leaf hashes from an index on, at most `limit`."""
        query = (
            sa.select(log_leaves.c.leaf_hash)
            .where(log_leaves.c.leaf_index >= start)
            .order_by(log_leaves.c.leaf_index)
        )
        with self._database.read() as c:
            return list(c.execute(query.limit(limit)).scalars())

    def size_at(self, moment: str) -> int:
        """Return how many entries the log had at a time, RFC 3339."""
        query = sa.select(sa.func.count()).where(log_leaves.c.logged_at < moment)
        with self._database.read() as c:
            count: int = c.execute(query).scalar_one()
        return count


def _add(c: sa.Connection, size: int) -> int:
    """Add the next receipts to the tree of a size; return how many they are."""
    rows = c.execute(_NEXT).all()
    if not rows:
        return 0
    leaves = [leaf_hash(row.receipt) for row in rows]
    kept = _hashes(c, subtrees(0, size))
    nodes = append(size, kept.__getitem__, leaves)
    at = now()
    c.execute(
        sa.insert(log_leaves),
        [
            {"leaf_index": size + i, "leaf_hash": leaf, "logged_at": at}
            for i, leaf in enumerate(leaves)
        ],
    )
    above = [
        {"level": level, "position": position, "hash": value}
        for (level, position), value in nodes.items()
        if level
    ]
    if above:
        c.execute(sa.insert(log_nodes), above)
    places = [{"job_id": row.id, "at": size + i} for i, row in enumerate(rows)]
    c.execute(_PLACE, places)
    c.execute(sa.update(log_state).values(size=size + len(rows)))
    return len(rows)


def _is_stale(c: sa.Connection, most_age_s: float, *, size: int | None = None) -> bool:
    """Whether the last head lacks entries of either log, or is too old."""
    newest = c.execute(_NEWEST).one_or_none()
    audit_size = c.execute(sa.select(audit_state.c.size)).scalar_one()
    return (
        newest is None
        or newest.size != (_size(c) if size is None else size)
        or newest.audit_size != audit_size
        or later(newest.signed_at, most_age_s) < now()
    )


def _size(c: sa.Connection) -> int:
    size: int = c.execute(sa.select(log_state.c.size)).scalar_one()
    return size


def _proof(c: sa.Connection, ranges: list[tuple[int, int]]) -> list[bytes]:
    kept = _hashes(c, [node for r in ranges for node in subtrees(*r)])
    return [range_hash(kept.__getitem__, *r) for r in ranges]


def _hashes(c: sa.Connection, nodes: Iterable[Node]) -> dict[Node, bytes]:
    """Return the hashes of complete subtrees, in two queries."""
    wanted = list(nodes)
    leaves = [position for level, position in wanted if not level]
    above = [node for node in wanted if node[0]]
    found: dict[Node, bytes] = {}
    if leaves:
        query = sa.select(log_leaves.c.leaf_index, log_leaves.c.leaf_hash)
        rows = c.execute(query.where(log_leaves.c.leaf_index.in_(leaves)))
        found |= {(0, row.leaf_index): row.leaf_hash for row in rows}
    if above:
        key = sa.tuple_(log_nodes.c.level, log_nodes.c.position)
        for row in c.execute(sa.select(log_nodes).where(key.in_(above))):
            found[row.level, row.position] = row.hash
    return found
