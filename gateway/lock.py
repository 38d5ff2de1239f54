"""One gateway per data folder: two would run every recovered job twice."""

import fcntl
import os
from pathlib import Path

from privacy.errors import UnavailableError


class FolderLock:
    """An exclusive lock on a folder; the kernel drops it when the process dies."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            UnavailableError: Another process holds it.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(folder / "gateway.lock", flags, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            msg = (
                f"another gateway is running on {folder}: stop it, or give this one "
                "its own data folder"
            )
            raise UnavailableError(msg, code="data-dir-locked") from None

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._fd)
