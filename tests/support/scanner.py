"""Look for byte patterns in files and in the memory of running processes (Linux)."""

import contextlib
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil

_CHUNK = 1 << 24
_KERNELS_OWN = ("[vvar]", "[vvar_vclock]", "[vsyscall]")


def patterns_of(numbers: Iterable[float]) -> set[bytes]:
    """Return how numbers may lie in memory or in a file: as text, and in binary.

    Single precision has four bytes a number, too few to tell from chance: there two
    numbers in a row are one pattern.
    """
    numbers = list(numbers)
    texts = {repr(number).encode() for number in numbers}
    doubles = {struct.pack("<d", number) for number in numbers}
    pairs = pairwise(numbers)
    return texts | doubles | {struct.pack("<2f", *pair) for pair in pairs}


def in_files(folder: Path, patterns: set[bytes]) -> list[str]:
    """Return which files below a folder hold a pattern.

    Raises:
        OSError: A file cannot be read.
    """
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(_holds(path.read_bytes(), patterns))
    ]


def in_memory(pid: int, patterns: set[bytes]) -> int:
    """Return how many patterns the memory of a process holds."""
    found = set()
    longest = max(map(len, patterns))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        for start, end in _readable(pid):
            rest = b""
            for at in range(start, end, _CHUNK):
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(at)
                    chunk = rest + memory.read(min(_CHUNK, end - at))
                    found.update(_holds(chunk, patterns - found))
                    rest = chunk[-longest:]
    return len(found)


def resident_bytes(pid: int) -> int:
    """Return what a process has in memory."""
    return int(psutil.Process(pid).memory_info().rss)


def _readable(pid: int) -> list[tuple[int, int]]:
    areas = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *rest = line.split(maxsplit=5)
        if "r" in rights and not (rest and rest[-1].strip() in _KERNELS_OWN):
            start, end = (int(edge, 16) for edge in span.split("-"))
            areas.append((start, end))
    return areas


def _holds(content: bytes, patterns: set[bytes]) -> Iterator[bytes]:
    return (pattern for pattern in patterns if pattern in content)
