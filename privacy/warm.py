"""Engines and keys that a process loaded, kept for the next job within its memory.

What a loaded thing takes is not known before it was used: evaluation keys unpack
lazily to several times their size. So the process's own resident memory is measured
after every job, and what was used longest ago goes first.
"""

import ctypes
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

BUDGET = "PRIVACY_WARM_BYTES"
"""Environment variable: how much resident memory a worker may keep between jobs."""
_DEFAULT_BUDGET_BYTES = 2 << 30


def resident_bytes() -> int:
    """Return this process's resident memory (Linux)."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - not a real file
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Warm:
    """Loaded things by key, the least recently used first to go. Not thread-safe."""

    def __init__(
        self, budget_bytes: int, *, resident: Callable[[], int] = resident_bytes
    ) -> None:
        """Keep things while `resident` says no more than `budget_bytes`."""
        self._budget_bytes = budget_bytes
        self._resident = resident
        self._kept: OrderedDict[Hashable, tuple[str, Any]] = OrderedDict()
        self._grown: dict[Hashable, int] = {}
        self._loading: tuple[Hashable, int] | None = None

    def get(
        self,
        key: Hashable,
        load: Callable[[], T],
        *,
        name: str,
        like: Hashable,
        guess: int,
    ) -> T:
        """Return what was loaded under a key before, or what `load` returns now.

        Args:
            key: Of the thing.
            load: Loads it; room is made first.
            name: What `names` calls it.
            like: Things alike take about the same memory.
            guess: How many bytes it may take, until one like it was measured.
        """
        if key not in self._kept:
            self._shrink_to(self._budget_bytes - self._grown.get(like, guess), keep=0)
            before = self._resident()
            self._kept[key] = name, load()
            self._loading = (like, before)
        self._kept.move_to_end(key)
        found: T = self._kept[key][1]
        return found

    def names(self) -> list[str]:
        """Return the names of what is kept, sorted."""
        return sorted({name for name, _ in self._kept.values()})

    def settle(self) -> None:
        """Measure what the last job loaded, and drop what is over the budget."""
        if self._loading:
            like, before = self._loading
            grown = max(0, self._resident() - before)
            self._grown[like] = max(grown, self._grown.get(like, 0))
            self._loading = None
        self._shrink_to(self._budget_bytes, keep=1)

    def __len__(self) -> int:
        """Return how many things are kept."""
        return len(self._kept)

    def _shrink_to(self, limit: int, *, keep: int) -> None:
        while len(self._kept) > keep and self._resident() > limit:
            self._kept.popitem(last=False)
            _give_back()


def _give_back() -> None:
    """Return freed memory to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


SHARED = Warm(int(os.environ.get(BUDGET, _DEFAULT_BUDGET_BYTES)))
"""The one of this process."""
