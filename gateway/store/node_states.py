"""Which nodes are under suspicion or in quarantine: the same for every gateway."""

from dataclasses import dataclass, fields
from typing import Literal

import sqlalchemy as sa

from gateway.store.audit import Act, note
from gateway.store.database import Database
from gateway.store.tables import node_states
from privacy.clock import now

Doubt = Literal["suspect", "quarantined"]


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node that is not as it should be.

    Attributes:
        state: `suspect`: it goes on; `quarantined`: it gets no jobs.
        why: In words; names the dispute.
    """

    node: str
    state: str
    why: str
    at: str


_CHOSEN = [node_states.c[f.name] for f in fields(NodeState)]


class NodeStates:
    """The table of doubtful nodes, and what this process last read of it."""

    def __init__(self, database: Database) -> None:
        """Read the table in `database`."""
        self._database = database
        self._known: dict[str, NodeState] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read the table again; tell whether other nodes are in quarantine now."""
        before = self.quarantined()
        with self._database.read() as c:
            rows = c.execute(sa.select(*_CHOSEN)).all()
        self._known = {row.node: NodeState(*row) for row in rows}
        return self.quarantined() != before

    def quarantined(self) -> frozenset[str]:
        """Return the names of nodes that get no jobs, as last read."""
        known = self._known.values()
        return frozenset(s.node for s in known if s.state == "quarantined")

    def all(self) -> dict[str, NodeState]:
        """Return every doubtful node, as last read."""
        return dict(self._known)

    def mark(self, c: sa.Connection, node: str, state: Doubt, why: str) -> None:
        """Mark a node; suspicion does not end a quarantine.

        Args:
            c: In a write transaction.
            node: Its name.
            state: What it is from now on.
            why: In words.
        """
        add = self._database.insert(node_states)
        c.execute(
            add.on_conflict_do_update(  # another gateway may mark it just now
                index_elements=["node"],
                set_={n: add.excluded[n] for n in ("state", "why", "at")},
                where=sa.or_(
                    node_states.c.state != "quarantined",
                    add.excluded.state != "suspect",
                ),
            ),
            {"node": node, "state": state, "why": why, "at": now()},
        )
        note(c, Act(action=f"node-{state}", target=node, details={"why": why}))

    def quarantine(self, node: str, why: str) -> None:
        """Give a node no jobs, on every gateway."""
        with self._database.write() as c:
            self.mark(c, node, "quarantined", why)
        self.refresh()

    def release(self, node: str) -> bool:
        """Trust a node again; tell whether there was a doubt."""
        self.refresh()
        if node not in self._known:
            return False
        with self._database.write() as c:
            gone = c.execute(sa.delete(node_states).where(node_states.c.node == node))
            note(c, Act(action="node-released", target=node))
        self.refresh()
        return gone.rowcount > 0
