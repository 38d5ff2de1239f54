"""Run many rows in batches of about half a second, and say how many are done.

What is told are counts, which the size of a sealed input gives away anyway. A quick
model runs all rows at once: its speed is known after its first rows.
"""

import time
from collections.abc import Callable

from privacy.encoding import Json
from privacy.tee.engine import Rows

_BATCH_S = 0.5


class Batches:
    """Runs a model's rows; may be used from several threads."""

    def __init__(
        self, run: Callable[[Rows], Rows], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Run with `run`, whose speed is not known yet."""
        self._run, self._clock = run, clock
        self._row_s = _BATCH_S

    def run(self, rows: Rows, tell: Callable[[Json], None]) -> Rows:
        """Return raw outputs, shape (rows, outputs); `tell` hears of rows done.

        Args:
            rows: Standardised features, at least one row.
            tell: Called between batches; if it raises, the rest is not run.
        """
        outputs: Rows = []
        done = 0
        while done < len(rows):
            if done:
                tell({"stage": "compute", "done": done, "total": len(rows)})
            size = max(1, int(_BATCH_S / max(self._row_s, 1e-6)))
            batch = rows[done : done + size]
            began = self._clock()
            outputs += self._run(batch)
            self._row_s = (self._clock() - began) / len(batch)
            done += len(batch)
        return outputs
