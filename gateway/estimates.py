"""What a job will take, from what jobs took: pure.

A straight line through the runs of a model in a mode gives seconds and bytes for any
number of rows; how far runs lay from it gives the spread. Where there were no runs, the
publisher's own figures stand in, and say so.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.store.measures import Measure
from privacy.bundle import ModePart
from privacy.encoding import Json

_UNKNOWN_SPREAD = 3.0
"""From a typical to a slow run, where one figure is all there is."""
_OVERHEAD_S = 0.02
"""Of a job beside the engine's time, which is all that a publisher measures."""
_CLEAR_BYTES = 18
_MESSAGE_BYTES = 1500
_TOLD_IN_HEX = 2


@dataclass(frozen=True, slots=True)
class Line:
    """`fixed + each * rows`, neither below 0."""

    fixed: float
    each: float

    def at(self, rows: int) -> float:
        """Return the value for so many rows."""
        return self.fixed + self.each * rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is expected of one job.

    Attributes:
        basis: `measured`, `publisher` or `none`.
        runs: How many runs it stands on.
        latency_s: From submission to the answer, at the gateway, of half of all jobs.
        slow_latency_s: Of 19 in 20.
        queue_s: Of it, waiting for a node.
        load_s: Of it, if engine and model have to be loaded first.
        bytes_up: Of the input.
        bytes_down: Of output and evidence.
        memory_bytes: On the node.
    """

    basis: str = "none"
    runs: int = 0
    latency_s: float | None = None
    slow_latency_s: float | None = None
    queue_s: float | None = None
    load_s: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    memory_bytes: int | None = None


def line_through(points: Sequence[tuple[int, float]]) -> Line:
    """Return the line nearest to the points (rows, value), by least squares.

    Points of one number of rows say nothing about others. Then more rows take more in
    proportion, and fewer take as much: an upper bound.
    """
    counts = {rows for rows, _ in points}
    mean_y = statistics.fmean(y for _, y in points)
    if len(counts) == 1:
        return Line(0.0, mean_y / counts.pop())
    mean_x = statistics.fmean(x for x, _ in points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    each = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    if each < 0:
        return Line(mean_y, 0.0)
    fixed = mean_y - each * mean_x
    if fixed >= 0:
        return Line(fixed, each)
    return Line(0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points))


def from_runs(runs: Sequence[Measure], rows: int, *, waiting_s: float) -> Estimate:
    """Return the estimate that runs of a model in a mode allow, of at least one.

    Args:
        runs: Of any number of rows.
        rows: Of the job.
        waiting_s: For how long the jobs that wait now will keep the nodes busy.
    """
    fewest = min(m.rows for m in runs)
    rows_at = max(rows, fewest) if len({m.rows for m in runs}) == 1 else rows
    took = [(m.rows, m.load_s + m.run_s) for m in runs]
    line = line_through(took)
    ratios = [y / line.at(x) for x, y in took if line.at(x) > 0] or [1.0]
    typical = line.at(rows_at) * statistics.median(ratios)
    slow = line.at(rows_at) * max(quantile(ratios, 0.95), _least_spread(len(runs)))
    queues = [m.queue_s for m in runs]
    queue_s = max(statistics.median(queues), waiting_s)
    loads = [m.load_s for m in runs if m.load_s]
    size = {
        name: line_through([(m.rows, float(getattr(m, name))) for m in runs])
        for name in ("bytes_up", "bytes_down")
    }
    return Estimate(
        basis="measured",
        runs=len(runs),
        latency_s=round(queue_s + typical, 6),
        slow_latency_s=round(max(quantile(queues, 0.95), waiting_s) + slow, 6),
        queue_s=round(queue_s, 6),
        load_s=round(statistics.median(loads), 6) if loads else 0.0,
        **{name: math.ceil(line.at(rows_at)) for name, line in size.items()},
        memory_bytes=max(m.memory_bytes for m in runs) or None,
    )


def from_publisher(
    part: ModePart, *, columns: int, rows: int, waiting_s: float
) -> Estimate:
    """Return the estimate that the manifest's cost allows.

    Args:
        part: Of the mode.
        columns: Features of a row.
        rows: Of the job.
        waiting_s: As for `from_runs`.
    """
    cost = part.cost
    memory_bytes = _whole(cost.get("memory_bytes"))
    each = _seconds(cost.get("latency_s"))
    if each is None:
        return Estimate(memory_bytes=memory_bytes)
    own_s = _OVERHEAD_S + min(rows * each, *_in_batches(cost, rows))
    clear_row = _CLEAR_BYTES * columns
    up, down = _whole(cost.get("input_bytes")), _whole(cost.get("output_bytes"))
    proof_bytes = _whole(cost.get("proof_bytes")) or 0
    return Estimate(
        basis="publisher",
        latency_s=round(waiting_s + own_s, 6),
        slow_latency_s=round(waiting_s + _UNKNOWN_SPREAD * own_s, 6),
        queue_s=round(waiting_s, 6),
        bytes_up=_MESSAGE_BYTES + rows * (up or clear_row),
        bytes_down=_MESSAGE_BYTES
        + rows * (down or clear_row + _TOLD_IN_HEX * proof_bytes),
        memory_bytes=memory_bytes,
    )


def _in_batches(cost: Json, rows: int) -> list[float]:
    """Return the seconds of a job that is cut into batches, for each size of one."""
    batches = cost.get("batches")
    found = [math.inf]
    for size, seconds in (batches if isinstance(batches, dict) else {}).items():
        took = _seconds(seconds)
        if took is not None and size.isdecimal() and int(size):
            found.append(-(-rows // int(size)) * took)
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed, interpolated."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def _least_spread(runs: int) -> float:
    """Return how much slower than the typical run a slow one is taken to be.

    The spread of few runs says little: one run counts like a publisher's figure.
    """
    return 1 + (_UNKNOWN_SPREAD - 1) / runs


def _seconds(value: object) -> float | None:
    good = type(value) in {int, float} and 0 <= value < math.inf  # type: ignore[operator]
    return float(value) if good else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
