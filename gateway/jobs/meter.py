"""Takes the measure of one run while it goes on."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.executors.base import Done, Watch, Work
from gateway.store.measures import Measure
from privacy.encoding import Json
from privacy.runs import MAX_ROWS

_ROW_BYTES = 18
"""Of a feature in a message of rows, on average; for modes that tell no rows."""


@dataclass(slots=True)
class RunMeter:
    """Hears what a `Watch` hears, in between; the last attempt counts.

    Attributes:
        rows: As the engine told; 0 if it did not.
    """

    clock: Callable[[], float] = time.monotonic
    rows: int = 0
    load_s: float = 0.0
    _submitted: float = 0.0
    _started: float = 0.0
    _loading: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Begin: the job was submitted just now."""
        self._submitted = self._started = self.clock()

    def around(self, watch: Watch) -> Watch:
        """Return a watch that tells us as well."""

        def started() -> None:
            self._began()
            watch.started()

        def progress(report: Json) -> None:
            self._heard(report)
            watch.progress(report)

        return Watch(started, progress)

    def measure(self, done: Done, work: Work) -> Measure:
        """Return the measure of a run that has succeeded just now.

        Args:
            done: Its files, which still lie where the node wrote them.
            work: What ran.
        """
        ended = self.clock()
        files = [done.output, *([done.evidence] if done.evidence else [])]
        bytes_up = work.input.stat().st_size
        row_bytes = _ROW_BYTES * len(work.bundle.manifest.columns)
        return Measure(
            model_sha256=work.bundle.sha256,
            mode=work.mode,
            node=done.node,
            rows=self.rows or min(MAX_ROWS, max(1, round(bytes_up / row_bytes))),
            queue_s=round(self._started - self._submitted, 6),
            load_s=round(self.load_s, 6),
            run_s=round(max(0.0, ended - self._started - self.load_s), 6),
            bytes_up=bytes_up,
            bytes_down=sum(file.stat().st_size for file in files),
            memory_bytes=done.memory_bytes,
        )

    def _began(self) -> None:
        with self._lock:
            self._started = self.clock()
            self.load_s, self._loading = 0.0, None

    def _heard(self, report: Json) -> None:
        with self._lock:
            now = self.clock()
            if report.get("stage") == "load":
                self._loading = now
            elif self._loading is not None:
                self.load_s, self._loading = now - self._loading, None
            total = report.get("total")
            if type(total) is int and total > 0:
                self.rows = total
