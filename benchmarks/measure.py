"""Time two things side by side, and say how they compare."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of repeated calls."""

    seconds: tuple[float, ...]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """The 95th percentile, by nearest rank."""
        ordered = sorted(self.seconds)
        return ordered[math.ceil(0.95 * len(ordered)) - 1]


def interleaved(
    calls: dict[str, Callable[[], object]], *, times: int, warm: int = 3
) -> dict[str, Timing]:
    """Return the timings of calls made in turn, so that noise falls on all alike."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(times + warm):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            passed = time.perf_counter() - started
            if turn >= warm:
                found[name].append(passed)
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def rss_bytes(pid: int) -> int:
    """Return a process's resident memory (VmRSS, Linux)."""
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123 - not a real file
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def named(names: Iterable[str], *, only: Sequence[str]) -> list[str]:
    """Return the names that hold one of some words; all if there are no words.

    Raises:
        SystemExit: None does.
    """
    every = list(names)
    if found := [n for n in every if not only or any(word in n for word in only)]:
        return found
    sys.exit(
        f"no set of data is named {' or '.join(only)}: there are {', '.join(every)}"
    )
