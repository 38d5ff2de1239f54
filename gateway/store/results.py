"""What finished jobs gave: outputs and evidence, kept for some time after their end.

The job and its receipt, which names both by digest, stay. A job whose results are gone
names none, and a file that no job and no upload names any more is removed.
"""

import sqlalchemy as sa

from gateway.store.audit import Act, note
from gateway.store.jobs import TERMINAL
from gateway.store.tables import jobs
from gateway.store.uploads import Uploads
from privacy.clock import now

_AT_ONCE = 500
_NAMES = (jobs.c.output_sha256, jobs.c.evidence_sha256)
_ENDED = jobs.c.status.in_(TERMINAL)
_HAS = sa.and_(_ENDED, sa.or_(*(name != "" for name in _NAMES)))
_OLD = (
    sa.select(jobs.c.id)
    .where(_HAS, jobs.c.finished_at <= sa.bindparam("horizon"))
    .limit(_AT_ONCE)
)


class Results:
    """The outputs and the evidence of this gateway's jobs."""

    def __init__(self, uploads: Uploads, *, ttl_s: float) -> None:
        """Keep results for `ttl_s` after their job's end; `uploads` removes files."""
        self._uploads = uploads
        self._ttl_s = ttl_s

    def delete(self, job_id: str) -> None:
        """Forget what a finished job gave; doing it again changes nothing."""
        with self._uploads.removing() as c:
            self._forget(c, [job_id])
            note(c, Act(action="result-deleted", target=job_id))

    def sweep(self) -> int:
        """Forget results that are too old; return how many files went."""
        horizon, removed = now(plus_s=-self._ttl_s), 0
        while True:
            with self._uploads.removing() as c:  # in parts: jobs are written meanwhile
                old = list(c.execute(_OLD, {"horizon": horizon}).scalars())
                removed += self._forget(c, old)
            if len(old) < _AT_ONCE:
                return removed

    def _forget(self, c: sa.Connection, job_ids: list[str]) -> int:
        these = jobs.c.id.in_(job_ids)
        rows = c.execute(sa.select(*_NAMES).where(these)).all()
        c.execute(sa.update(jobs).where(these).values(dict.fromkeys(_NAMES, "")))
        return self._uploads.remove_unneeded(c, {n for row in rows for n in row if n})
