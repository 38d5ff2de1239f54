"""Blobs on disk, named by their SHA-256.

Files are whole after the process was killed. After a power cut the last ones may be
missing or short, as the last transactions may be: such a blob counts as not there.
"""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gateway.store.away import StoreAwayError
from privacy.encoding import check_sha256
from privacy.errors import BackendError, NotFoundError

SMALL_BYTES = 1 << 18


class BlobStore(Protocol):
    """What the gateway asks of wherever its blobs are."""

    def fetch(self, sha256: str) -> Path:
        """Return a file on this machine that holds a blob, or raise NotFoundError."""

    def has(self, sha256: str, size: int) -> bool:
        """Whether the blob is here, whole."""

    def bring(self, file: Path, sha256: str) -> None:
        """Do what takes long before a transaction names a blob; the file stays.

        Raises:
            BlobLostError: Neither the file is there nor what `keep` made of it.
        """

    def keep(self, file: Path, sha256: str) -> None:
        """Have a blob in the transaction that names it; the file goes.

        Doing it again, for that transaction failed, is harmless.

        Raises:
            BlobRemovedError: Another removed it since it was brought: bring it again.
            BlobLostError: As for `bring`.
        """

    def small(self, sha256: str) -> bytes | None:
        """Return a blob that is small, for which streaming would only cost time."""

    def older_than(self, seconds: float) -> set[str]:
        """Return the digests of blobs that have lain here for so long."""

    def remove(self, digests: Collection[str]) -> int:
        """Remove blobs; return how many there were."""

    def copies(self) -> set[str]:
        """Return the digests of blobs of which this machine has a copy."""

    def trim(self, *, in_use: Collection[str], gone: Collection[str]) -> int:
        """Remove copies that are needed no more; return how many."""


class BlobRemovedError(StoreAwayError):
    """A blob was removed between its upload and the transaction that names it."""

    default_code = "blobs-unavailable"


class BlobLostError(BackendError):
    """What a run made is nowhere any more: it has to run again.

    A transaction moved it and failed; then somebody removed it, for no row named it.
    """

    default_code = "blob-lost"


def lost(sha256: str) -> BlobLostError:
    """Return the error of a file that a transaction moved which failed."""
    return BlobLostError(f"blob {sha256[:12]}… was removed before it was named")


def missing(sha256: str) -> NotFoundError:
    """Return the error of a blob that is not here."""
    msg = f"blob {sha256[:12]}… is not here any more: upload it again"
    return NotFoundError(msg, code="unknown-blob")


class Blobs:
    """The blobs of a folder; `gateway.store.uploads` says whose they are."""

    def __init__(self, folder: Path) -> None:
        """Keep files under `folder`, which several gateways may share."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Return where the blob of that digest lies, if it is here."""
        return self._folder / check_sha256(sha256)[:2] / sha256

    def fetch(self, sha256: str) -> Path:
        """Return the file that holds a blob.

        Raises:
            NotFoundError: There is none.
        """
        path = self.path(sha256)
        if not path.exists():
            raise missing(sha256)
        return path

    def has(self, sha256: str, size: int) -> bool:
        """Whether the blob is here, whole."""
        try:
            return self.path(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def bring(self, file: Path, sha256: str) -> None:
        """Do nothing: a file is renamed when its name is written.

        One that a transaction moved which failed counts as new, lest it be taken for
        lost before the next try.
        """
        if not file.exists():
            self._renew(sha256)

    def keep(self, file: Path, sha256: str) -> None:
        """Move a file to where its digest says, unless those bytes are there already.

        Then only their age begins anew: to rename over a file takes milliseconds, since
        some file systems write it to the disk first.
        """
        final = self.path(sha256)
        if not file.exists():
            self._renew(sha256)
            return  # it was moved before, in a transaction that failed
        if self.has(sha256, file.stat().st_size):
            with suppress(FileNotFoundError):  # removed meanwhile
                os.utime(final)
                file.unlink()
                return
        final.parent.mkdir(exist_ok=True, mode=0o700)
        file.chmod(0o600)
        try:
            file.replace(final)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            _copy(file, final)  # the job's folder is on another disk

    def _renew(self, sha256: str) -> None:
        """Have the age of a blob begin anew."""
        try:
            os.utime(self.path(sha256))
        except FileNotFoundError:
            raise lost(sha256) from None

    def small(self, sha256: str) -> bytes | None:
        """Return a blob that is small, for which streaming would only cost time."""
        try:
            path = self.fetch(sha256)
            return path.read_bytes() if path.stat().st_size <= SMALL_BYTES else None
        except FileNotFoundError:  # removed just now
            raise missing(sha256) from None

    def older_than(self, seconds: float) -> set[str]:
        """Return the digests of blobs that have lain here for so long."""
        horizon, found = time.time() - seconds, set()
        for path in self._folder.glob("??/*"):
            try:
                if path.stat().st_mtime > horizon:
                    continue
            except FileNotFoundError:
                continue  # deleted meanwhile
            if path.name.startswith("."):
                path.unlink(missing_ok=True)  # a copy that broke off
            else:
                found.add(path.name)
        return found

    def remove(self, digests: Collection[str]) -> int:
        """Remove blobs; return how many there were."""
        removed = 0
        for sha256 in digests:
            path = self.path(sha256)
            removed += path.exists()
            path.unlink(missing_ok=True)
        return removed

    def copies(self) -> set[str]:
        """Return nothing: these are the blobs themselves."""
        return set()

    def trim(self, *, in_use: Collection[str], gone: Collection[str]) -> int:
        """Remove nothing."""
        _ = in_use, gone
        return 0


def _copy(file: Path, final: Path) -> None:
    arriving = final.with_name(f".{secrets.token_hex(8)}")
    try:
        shutil.copyfile(file, arriving)
        arriving.chmod(0o600)
        arriving.replace(final)
    finally:
        arriving.unlink(missing_ok=True)
    file.unlink()
