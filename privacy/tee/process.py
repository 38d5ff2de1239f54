"""Which process is meant: a pid alone may belong to another process by now."""

import os
import select
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

# No site module, so no .pth files and no sitecustomize: code that nobody measures.
INTERPRETER = (sys.executable, "-S", "-P")

_STATE, _START_TICKS = 0, 19  # fields of /proc/PID/stat after the name
_DEAD = {"Z", "X"}


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, of one boot of one machine."""

    pid: int
    start_ticks: int
    boot_id: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return identify(self.pid) == self

    def kill(self, *, timeout_s: float = 10.0) -> None:
        """End this process, if it still runs, and wait until it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The handle is open: the pid cannot pass to another process any more.
            if self.alive:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], timeout_s)
        finally:
            os.close(handle)


def identify(pid: int) -> ProcessIdentity | None:
    """Return a running process's identity, None if there is none (or a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[_STATE] in _DEAD:
        return None
    return ProcessIdentity(pid, int(fields[_START_TICKS]), boot_id)
