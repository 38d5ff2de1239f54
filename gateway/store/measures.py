"""How long runs took and how large they were: the newest of each model, mode and node.

Estimates are made from these. A run that was not written down yet when a gateway dies
is no loss; a few thousand rows stay, however many jobs there were.
"""

import threading
from dataclasses import asdict, dataclass, fields

import sqlalchemy as sa

from gateway.store.database import Database
from gateway.store.tables import run_measures
from privacy.clock import now

MOST = 200
"""Runs that are kept of one model, mode and node."""
_MOST_WAITING = 5000
_OLD_S = 90 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One run that succeeded.

    Attributes:
        rows: Of the input, as the engine told or as its size suggests.
        queue_s: From submission until a node began.
        load_s: Of loading engine and model; 0 where they were warm.
        run_s: The rest, until the answer was there.
        bytes_up: Of the input.
        bytes_down: Of output and evidence.
        memory_bytes: The most that the process which ran it took; 0 if unknown.
    """

    model_sha256: str
    mode: str
    node: str
    rows: int
    queue_s: float
    load_s: float
    run_s: float
    bytes_up: int
    bytes_down: int
    memory_bytes: int


_CHOSEN = [run_measures.c[f.name] for f in fields(Measure)]
_KEY = ("model_sha256", "mode", "node")


class Measures:
    """The table of runs; thread-safe."""

    def __init__(self, database: Database) -> None:
        """Use the table in `database`."""
        self._database = database
        self._lock = threading.Lock()
        self._waiting: list[Measure] = []

    def note(self, measure: Measure) -> None:
        """Keep a measure for the next `write`; nobody waits for the database."""
        with self._lock:
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(measure)

    def write(self) -> int:
        """Write what was noted, forget what is too old or too much; return how many."""
        with self._lock:
            found, self._waiting = self._waiting, []
        if not found:
            return 0
        at = now()
        with self._database.write() as c:
            c.execute(sa.insert(run_measures), [{**asdict(m), "at": at} for m in found])
            for key in {tuple(getattr(m, name) for name in _KEY) for m in found}:
                _trim(c, dict(zip(_KEY, key, strict=True)))
            horizon = now(plus_s=-_OLD_S)
            c.execute(sa.delete(run_measures).where(run_measures.c.at < horizon))
        return len(found)

    def of(self, model_sha256: str, mode: str) -> list[Measure]:
        """Return the runs of a model in a mode, on every node, the newest first."""
        query = (
            sa.select(*_CHOSEN)
            .where(
                run_measures.c.model_sha256 == model_sha256, run_measures.c.mode == mode
            )
            .order_by(run_measures.c.id.desc())
        )
        with self._database.read() as c:
            return [Measure(**row._mapping) for row in c.execute(query)]  # noqa: SLF001


def _trim(c: sa.Connection, key: dict[str, str]) -> None:
    """Delete the oldest runs of a model, mode and node that are too many."""
    ours = [run_measures.c[name] == value for name, value in key.items()]
    newest = sa.select(run_measures.c.id).where(*ours)
    first_gone = c.execute(
        newest.order_by(run_measures.c.id.desc()).offset(MOST).limit(1)
    ).scalar()
    if first_gone is not None:
        c.execute(sa.delete(run_measures).where(*ours, run_measures.c.id <= first_gone))
