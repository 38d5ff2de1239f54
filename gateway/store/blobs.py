"""Blobs on disk, named by their SHA-256.

Files are whole after the process was killed. After a power cut the last ones may be
missing or short, as the last transactions may be: such a blob counts as not there.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from privacy.encoding import check_sha256

_SMALL_BYTES = 1 << 18


class Blobs:
    """The blobs of this gateway; `gateway.store.uploads` says whose they are."""

    def __init__(self, folder: Path) -> None:
        """Keep files under `folder`."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Return where the blob of that digest lies, if it is here."""
        return self._folder / check_sha256(sha256)[:2] / sha256

    def has(self, sha256: str, size: int) -> bool:
        """Whether the blob is here, whole."""
        try:
            return self.path(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def keep(self, file: Path, sha256: str) -> None:
        """Move a file to where its digest says, unless those bytes are there already.

        Then only their age begins anew: to rename over a file takes milliseconds, since
        some file systems write it to the disk first.
        """
        final = self.path(sha256)
        if self.has(sha256, file.stat().st_size):
            with suppress(FileNotFoundError):  # removed meanwhile
                os.utime(final)
                file.unlink()
                return
        final.parent.mkdir(exist_ok=True, mode=0o700)
        file.chmod(0o600)
        file.replace(final)

    def small(self, sha256: str) -> bytes | None:
        """Return a blob that is small, for which streaming would only cost time."""
        path = self.path(sha256)
        return path.read_bytes() if path.stat().st_size <= _SMALL_BYTES else None

    def older_than(self, seconds: float) -> set[str]:
        """Return the digests of blobs that have lain here for so long."""
        horizon, found = time.time() - seconds, set()
        for path in self._folder.glob("??/*"):
            try:
                if path.stat().st_mtime <= horizon:
                    found.add(path.name)
            except FileNotFoundError:
                continue  # deleted meanwhile
        return found

    def remove(self, sha256: str) -> bool:
        """Remove a blob; tell whether it was here."""
        path = self.path(sha256)
        was_here = path.exists()
        path.unlink(missing_ok=True)
        return was_here
