"""What proving takes, and what there is."""

from pathlib import Path

from privacy.errors import UnavailableError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def available_memory() -> int:
    """Return how many bytes Linux says can be had now."""
    return _meminfo("MemAvailable")


def installed_memory() -> int:
    """Return how many bytes this machine has, or this container may use."""
    most = _CGROUP.read_text().strip() if _CGROUP.is_file() else "max"
    installed = _meminfo("MemTotal")
    return min(installed, int(most)) if most.isdecimal() else installed


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
