"""What a watcher remembers of requests; all of it could be learnt anew."""

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    chain TEXT NOT NULL,
    id INTEGER NOT NULL,
    is_final INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    retry_at REAL NOT NULL DEFAULT 0,
    note TEXT NOT NULL DEFAULT '',
    jobs TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (chain, id)
)
"""


@dataclass(slots=True)
class Known:
    """What is known of one request.

    Attributes:
        is_final: It has ended, in a block that is believed.
        attempts: How often answering it failed.
        retry_at: Unix time before which it is left alone.
        note: Why it is not answered yet.
        jobs: The jobs at the gateway, by mode.
    """

    id: int
    is_final: bool = False
    attempts: int = 0
    retry_at: float = 0.0
    note: str = ""
    jobs: dict[str, str] = field(default_factory=dict)


class State:
    """The requests of one coordinator on one chain."""

    def __init__(self, path: Path, chain: str) -> None:
        """Open the file, or make it."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(_SCHEMA)
        self._chain = chain

    def first_open(self) -> int:
        """Return the least id below which all requests are final."""
        row = self._db.execute(
            "SELECT id FROM requests WHERE chain = ? AND is_final = 0 "
            "ORDER BY id LIMIT 1",
            (self._chain,),
        ).fetchone()
        if row:
            return int(row[0])
        row = self._db.execute(
            "SELECT MAX(id) FROM requests WHERE chain = ?", (self._chain,)
        ).fetchone()
        return int(row[0] or 0) + 1

    def get(self, request_id: int) -> Known:
        """Return what is known of a request, even if that is nothing."""
        row = self._db.execute(
            "SELECT id, is_final, attempts, retry_at, note, jobs FROM requests "
            "WHERE chain = ? AND id = ?",
            (self._chain, request_id),
        ).fetchone()
        if row is None:
            return Known(request_id)
        number, is_final, attempts, retry_at, note, jobs = row
        return Known(number, bool(is_final), attempts, retry_at, note, json.loads(jobs))

    def put(self, known: Known) -> None:
        """Keep what is known of a request."""
        self._db.execute(
            "INSERT OR REPLACE INTO requests "
            "(chain, id, is_final, attempts, retry_at, note, jobs) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                self._chain,
                known.id,
                int(known.is_final),
                known.attempts,
                known.retry_at,
                known.note,
                json.dumps(known.jobs),
            ),
        )

    def notes(self) -> dict[int, str]:
        """Return why each request that is not final is not answered yet."""
        rows = self._db.execute(
            "SELECT id, note FROM requests WHERE chain = ? AND is_final = 0",
            (self._chain,),
        )
        return {int(i): str(note) for i, note in rows}

    def close(self) -> None:
        """Close the file."""
        self._db.close()
