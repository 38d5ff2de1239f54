"""The audit log: who did what, appended only, each entry holding the last one's hash.

An act is noted in `audit_pending`, in the same transaction as the act itself where it
changes our tables. Notes become entries of the chain within a second, under the lock of
the row in `audit_state`: requests of several gateways never wait for one another.
Tree heads name the chain's end, so whoever keeps one can tell if it was cut off.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace

import sqlalchemy as sa

from gateway.store.database import Database
from gateway.store.log_tables import audit_entries, audit_pending, audit_state
from privacy.clock import now
from privacy.encoding import Json, sha256_hex
from privacy.errors import FormatError
from privacy.transparency.audit_chain import (
    MAX_LINE_BYTES,
    START_SHA256,
    AuditEntry,
    ChainEnd,
)

MOST_ENTRIES = 1000
MAX_SEQ = (1 << 53) - 1
_AT_ONCE = 500
_NOTES = sa.select(audit_pending).order_by(audit_pending.c.id).limit(_AT_ONCE)
_WAITING = sa.select(audit_pending.c.id).limit(1)
_NOTE = sa.insert(audit_pending)


@dataclass(frozen=True, slots=True)
class Who:
    """On whose behalf something is done, and which gateway saw it."""

    actor: str = ""
    tenant: str = ""
    gateway: str = ""
    request_id: str = ""


_NOBODY = Who(actor="gateway")
WHO: ContextVar[Who] = ContextVar("who", default=_NOBODY)
"""Set for every request; what runs on the gateway's own behalf has the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something to note; see `AuditEntry` for the members."""

    action: str
    target: str = ""
    outcome: str = "done"
    details: Json = field(default_factory=dict)
    who: Who = field(default_factory=WHO.get)
    at: str = field(default_factory=now)


def note(c: sa.Connection, act: Act) -> None:
    """Note an act in the transaction that does it.

    Raises:
        FormatError: As for `checked`.
    """
    c.execute(_NOTE, {"act": checked(act)})


def checked(act: Act) -> Json:
    """Return an act as `audit_pending` has it.

    Raises:
        FormatError: Its details are no JSON, or too long.
    """
    flat = {**asdict(act), **asdict(act.who)}
    del flat["who"]
    # What cannot be an entry must not get here: all that waits behind it would wait.
    line = AuditEntry(**flat, seq=MAX_SEQ, previous_sha256=START_SHA256).encode()
    if len(line) > MAX_LINE_BYTES:
        msg = f"an act of {len(line)} bytes is noted, at most {MAX_LINE_BYTES} may be"
        raise FormatError(msg, code="too-large")
    return flat


class Audit:
    """The audit log of one gateway, or of several that share a database."""

    def __init__(self, database: Database, *, gateway: str) -> None:
        """Use the tables in `database`; acts of no request are those of `gateway`."""
        self._database = database
        self._gateway = gateway

    def record(self, act: Act) -> None:
        """Note an act by itself."""
        who = replace(act.who, gateway=act.who.gateway or self._gateway)
        with self._database.write() as c:
            note(c, replace(act, who=who))

    def chain(self) -> int:
        """Make entries of what was noted; return how many.

        What is noted meanwhile waits for the next call.
        """
        made, count = 0, _AT_ONCE
        while count == _AT_ONCE and self._is_waiting():
            with self._database.write() as c:
                count = _chain(c)
            made += count
        return made

    def entries(self, after: int, limit: int) -> list[str]:
        """Return lines of the log after an entry, at most `limit`."""
        query = sa.select(audit_entries.c.line).where(audit_entries.c.seq > after)
        with self._database.read() as c:
            rows = c.execute(query.order_by(audit_entries.c.seq).limit(limit))
            return list(rows.scalars())

    def end(self) -> tuple[ChainEnd, ChainEnd]:
        """Return where the chain ends, and where its archived part does."""
        with self._database.read() as c:
            row = c.execute(sa.select(audit_state)).one()
        return (
            ChainEnd(row.size, row.sha256),
            ChainEnd(row.archived_size, row.archived_sha256),
        )

    def before(self, horizon: str, *, limit: int) -> list[str]:
        """Return the oldest lines, as far as they are from before a time."""
        query = sa.select(audit_entries.c.line, audit_entries.c.at)
        with self._database.read() as c:
            rows = c.execute(query.order_by(audit_entries.c.seq).limit(limit)).all()
        lines = []
        for row in rows:
            if row.at >= horizon:
                break
            lines.append(row.line)
        return lines

    def forget(self, end: ChainEnd) -> None:
        """Remove entries up to one that was archived; the chain goes on after it."""
        with self._database.write() as c:
            c.execute(sa.select(audit_state).with_for_update()).one()
            c.execute(
                sa.update(audit_state).values(
                    archived_size=end.size, archived_sha256=end.sha256
                )
            )
            c.execute(sa.delete(audit_entries).where(audit_entries.c.seq <= end.size))

    def _is_waiting(self) -> bool:
        with self._database.read() as c:
            return c.execute(_WAITING).first() is not None


def _chain(c: sa.Connection) -> int:
    state = c.execute(sa.select(audit_state).with_for_update()).one()
    notes = c.execute(_NOTES).all()
    if not notes:
        return 0
    rows, end = _entries([row.act for row in notes], ChainEnd(state.size, state.sha256))
    c.execute(sa.insert(audit_entries), rows)
    c.execute(sa.update(audit_state).values(size=end.size, sha256=end.sha256))
    taken = [row.id for row in notes]
    c.execute(sa.delete(audit_pending).where(audit_pending.c.id.in_(taken)))
    return len(rows)


def _entries(acts: Sequence[Json], end: ChainEnd) -> tuple[list[Json], ChainEnd]:
    rows = []
    for act in acts:
        entry = AuditEntry(**act, seq=end.size + 1, previous_sha256=end.sha256)
        line = entry.encode()
        end = ChainEnd(entry.seq, sha256_hex(line))
        rows.append(
            {
                "seq": end.size,
                "at": entry.at,
                "sha256": end.sha256,
                "line": line.decode(),
            }
        )
    return rows, end
