"""The gateways of one database: which live, and which enclave is where.

A gateway promises to beat: to count up a number in its row. Others watch the number on
their own clocks, so no clock is compared with another machine's. One whose number has
stood still for as long as it promised is dead: who removes its row, and only one can,
takes its jobs over. If it lives all the same, it finds no row to count up, and stops
what it runs; the ends of those runs are not taken, since the jobs are another's by now.
"""

from dataclasses import dataclass, fields

import sqlalchemy as sa

from gateway.store.database import Database
from gateway.store.tables import enclaves, gateways, jobs
from privacy.clock import now
from privacy.errors import ConflictError

_OPEN = jobs.c.status.in_(("queued", "running"))
_THIS = sa.and_(
    gateways.c.id == sa.bindparam("this_id"), gateways.c.life == sa.bindparam("its")
)
_BEAT = sa.update(gateways).where(_THIS).values(beat=gateways.c.beat + 1)
_BURY = sa.delete(gateways).where(_THIS, gateways.c.beat == sa.bindparam("its_beat"))
_LEAVE = sa.delete(gateways).where(_THIS)


@dataclass(frozen=True, slots=True)
class Member:
    """A gateway's row.

    Attributes:
        id: Of its data folder.
        life: Of its process.
        name: Of its node, for people.
        lease_s: It is dead if it does not beat for so long.
        beat: The number that it counts up.
    """

    id: str
    life: str
    name: str
    lease_s: float
    beat: int = 0


class Gateways:
    """The table of gateways, and whose the jobs are."""

    def __init__(self, database: Database) -> None:
        """Use the tables in `database`."""
        self._database = database
        self.shared = database.shared

    def join(self, member: Member, *, allow_namesake: bool = False) -> None:
        """Write a gateway down; an earlier life of it is over.

        On a database that is not shared, every other gateway's life is.

        Args:
            member: The gateway.
            allow_namesake: Another one may have its name.

        Raises:
            ConflictError: Another one has its name ("node-name-taken").
        """
        whose = gateways.c.id == member.id if self.shared else sa.true()
        with self._database.write() as c:
            c.execute(sa.delete(gateways).where(whose))
            self._database.lock(c, "names of gateways")  # two may start at once
            same = sa.select(gateways.c.id).where(gateways.c.name == member.name)
            if not allow_namesake and c.execute(same).first():
                raise name_taken(member)
            row = {
                "id": member.id,
                "life": member.life,
                "name": member.name,
                "lease_s": member.lease_s,
                "beat": member.beat,
                "joined_at": now(),
            }
            c.execute(sa.insert(gateways).values(row))

    def beat(self, member: Member) -> bool:
        """Say that a gateway lives; false if others took it for dead."""
        with self._database.statement() as c:  # it waits for no transaction of ours
            return c.execute(_BEAT, _key(member)).rowcount == 1

    def all(self) -> list[Member]:
        """Return every gateway that is written down."""
        of = (gateways.c[f.name] for f in fields(Member))
        with self._database.read() as c:
            return [Member(*row) for row in c.execute(sa.select(*of))]

    def bury(self, member: Member) -> bool:
        """Remove a dead gateway's row; false if it beat meanwhile, or another did."""
        with self._database.write() as c:
            found = c.execute(_BURY, {**_key(member), "its_beat": member.beat})
            return found.rowcount == 1

    def claim(self, heir: str) -> int:
        """Give one gateway the open jobs of those that live no more; return how many.

        Two gateways that do so at once share them out, each job to one.
        """
        living = sa.select(gateways.c.id)
        with self._database.write() as c:
            take = sa.update(jobs).where(_OPEN, jobs.c.gateway.not_in(living))
            return c.execute(take.values(gateway=heir)).rowcount

    def leave(self, member: Member) -> None:
        """Take a gateway off the list; others take its open jobs over at once."""
        with self._database.write() as c:
            c.execute(_LEAVE, _key(member))

    def keep_enclave(self, key_id: str, gateway: str) -> None:
        """Remember at which gateway the enclave of a public key is."""
        add = self._database.insert(enclaves)
        row = {"key_id": key_id, "gateway": gateway, "seen_at": now()}
        with self._database.write() as c:
            c.execute(
                add.on_conflict_do_update(
                    index_elements=["key_id"],
                    set_={n: add.excluded[n] for n in ("gateway", "seen_at")},
                ),
                row,
            )

    def enclave_at(self, key_id: str) -> str:
        """Return the living gateway that has the enclave of a public key, or ""."""
        query = (
            sa.select(enclaves.c.gateway)
            .join(gateways, gateways.c.id == enclaves.c.gateway)
            .where(enclaves.c.key_id == key_id)
        )
        with self._database.read() as c:
            return c.execute(query).scalar_one_or_none() or ""

    def move_enclaves(self, before: str, after: str) -> None:
        """Give a gateway's enclaves another id of it."""
        mine = enclaves.c.gateway == before
        with self._database.write() as c:
            c.execute(sa.update(enclaves).where(mine).values(gateway=after))

    def sweep(self, *, older_than_s: float = 7 * 86400.0) -> int:
        """Forget enclaves of gateways that are gone, after some time."""
        living = sa.select(gateways.c.id)
        old = sa.delete(enclaves).where(
            enclaves.c.gateway.not_in(living),
            enclaves.c.seen_at < now(plus_s=-older_than_s),
        )
        with self._database.write() as c:
            c.execute(old)
        return 0


def name_taken(member: Member) -> ConflictError:
    """Return the error of a gateway whose name another one has."""
    msg = (
        f"another gateway of this database is called {member.name!r}: "
        "give each a PRIVACY_GATEWAY_NODE_NAME of its own"
    )
    return ConflictError(msg, code="node-name-taken")


def _key(member: Member) -> dict[str, str]:
    return {"this_id": member.id, "its": member.life}
