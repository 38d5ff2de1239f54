"""What proving takes, and what there is."""

from pathlib import Path

from privacy.errors import UnavailableError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return how many bytes can be had now: on this machine, and in this container."""
    machine = _meminfo("MemAvailable")
    most, used = _cgroup("memory.max"), _cgroup("memory.current")
    if most is None or used is None:
        return machine
    return min(machine, max(0, most - used + _files_cached()))


def installed_memory() -> int:
    """Return how many bytes this machine has, or this container may use."""
    most, installed = _cgroup("memory.max"), _meminfo("MemTotal")
    return installed if most is None else min(installed, most)


def _cgroup(name: str) -> int | None:
    """Return a number of this container's, or None where there is none."""
    file = _CGROUP / name
    said = file.read_text().strip() if file.is_file() else "max"
    return int(said) if said.isdecimal() else None


def _files_cached() -> int:
    """Return what the container's use counts of files, which Linux drops when asked."""
    file = _CGROUP / "memory.stat"
    stated = file.read_text().splitlines() if file.is_file() else []
    of_files = [line.split() for line in stated if line.startswith("inactive_file ")]
    return sum(int(count) for _, count in of_files)


def _meminfo(name: str) -> int:
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 1 << 32


def check_memory(needed: int) -> None:
    """Refuse work before it starts that would end by the kernel's hand.

    Args:
        needed: Bytes, by `privacy.zkml.tune.estimate`.

    Raises:
        UnavailableError: There is less now; code `too-little-memory`.
    """
    found = available_memory()
    if needed > found:
        msg = (
            f"proving takes about {needed >> 20} MiB, {found >> 20} MiB are free on "
            "this node: try again later, or use a node with more memory"
        )
        raise UnavailableError(msg, code="too-little-memory")
