"""Blobs on disk, named by their SHA-256; tenants own what they uploaded themselves.

Two tenants that upload the same bytes share one file but never learn of each other.
Files are whole after the process was killed. After a power cut the last ones may be
missing or short, as the last transactions may be: such a blob counts as not uploaded.
"""

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from gateway.clock import now
from gateway.store.database import Database
from gateway.store.tables import blobs
from privacy.encoding import check_sha256, sha256_file
from privacy.errors import (
    FormatError,
    LimitError,
    NotFoundError,
    UnavailableError,
)

_RESERVE_BYTES = 1 << 28  # of the disk, so that jobs can still be written down
_PATIENCE_S = 60.0
_LEAST_BYTES_PER_S = 10_000
_SMALL_BYTES = 1 << 18
_OWN = insert(blobs).on_conflict_do_nothing()
_SIZE = sa.select(blobs.c.bytes).where(
    *(blobs.c[name] == sa.bindparam(name) for name in ("tenant", "kind", "sha256"))
)


class Blobs:
    """The blobs of this gateway."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        reserve_bytes: int = _RESERVE_BYTES,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Keep files under `folder`; half-written ones of an earlier life go.

        Args:
            database: Holds who owns what.
            folder: For the files.
            reserve_bytes: Uploads end when the disk has no more room than this.
            patience_s: How far an upload may fall behind 10 kB a second.
        """
        self._database = database
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._patience_s = patience_s
        self._uploads = folder / "uploads"
        self._uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left_over in self._uploads.iterdir():
            left_over.unlink()

    def path(self, sha256: str) -> Path:
        """Return where the blob of that digest lies, if it is here."""
        return self._folder / check_sha256(sha256)[:2] / sha256

    async def receive(
        self,
        chunks: AsyncIterator[bytes],
        *,
        sha256: str,
        max_bytes: int,
        announced_bytes: int = 0,
    ) -> tuple[Path, int]:
        """Write an upload while hashing it; give the file and its size.

        The caller hands it to `own`. Nothing is left behind on failure.

        Raises:
            LimitError: More than `max_bytes`, or too slow.
            FormatError: Empty, or the digest is not `sha256`.
            UnavailableError: The disk is full.
        """
        check_sha256(sha256)
        _check_size(announced_bytes, max_bytes)
        part, size, digest = self._part(), 0, hashlib.sha256()
        began, arriving = time.monotonic(), aiter(chunks)
        try:
            with part.open("xb") as file:
                while (chunk := await self._next(arriving, began, size)) is not None:
                    size += len(chunk)
                    _check_size(size, max_bytes)
                    self._check_room()
                    digest.update(chunk)
                    file.write(chunk)
            _check_upload(size, digest.hexdigest(), sha256)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return part, size

    def own(self, part: Path, *, tenant: str, kind: str, sha256: str) -> bool:
        """Keep a received file for a tenant; tell whether it is new to the tenant."""
        size = part.stat().st_size
        self._keep(part, sha256)
        row = {"tenant": tenant, "kind": kind, "sha256": sha256, "bytes": size}
        with self._database.write() as connection:
            added = connection.execute(_OWN, {**row, "created_at": now()})
        return bool(added.rowcount)

    def adopt(self, file: Path) -> str:
        """Keep a file that a worker wrote and return its digest."""
        sha256 = sha256_file(file)
        self._keep(file, sha256)
        return sha256

    def size(self, *, tenant: str, kind: str, sha256: str) -> int:
        """Return the size of a blob the tenant owns.

        Raises:
            NotFoundError: The tenant uploaded no such blob, whoever else did.
        """
        key = {"tenant": tenant, "kind": kind, "sha256": check_sha256(sha256)}
        with self._database.read() as connection:
            size: int | None = connection.execute(_SIZE, key).scalar()
        if size is None or not self._is_whole(sha256, size):
            what = "evaluation keys" if kind == "keys" else "input"
            where = "keys" if kind == "keys" else "blobs"
            msg = f"{what} {sha256[:12]}… not found: upload to /v1/{where}/ first"
            raise NotFoundError(msg, code=f"unknown-{kind}")
        return size

    def small(self, sha256: str) -> bytes | None:
        """Return a blob that is small, for which streaming would only cost time."""
        path = self.path(sha256)
        return path.read_bytes() if path.stat().st_size <= _SMALL_BYTES else None

    def _part(self) -> Path:
        return self._uploads / secrets.token_hex(8)

    async def _next(
        self, chunks: AsyncIterator[bytes], began: float, size: int
    ) -> bytes | None:
        """Return the next chunk, None at the end."""
        allowed_s = self._patience_s + size / _LEAST_BYTES_PER_S
        try:
            async with asyncio.timeout(began + allowed_s - time.monotonic()):
                return await anext(chunks, None)
        except TimeoutError:
            msg = f"only {size} bytes came in {allowed_s:.0f} s: upload again"
            raise LimitError(msg, code="upload-too-slow") from None

    def _check_room(self) -> None:
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < self._reserve_bytes:
            msg = "the gateway's disk is full: the operator has to make room"
            raise UnavailableError(msg, code="storage-full")

    def _is_whole(self, sha256: str, size: int) -> bool:
        try:
            return self.path(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def _keep(self, file: Path, sha256: str) -> None:
        final = self.path(sha256)
        final.parent.mkdir(exist_ok=True, mode=0o700)
        file.chmod(0o600)
        file.replace(final)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        msg = f"the upload has more than {max_bytes} bytes, the most this gateway takes"
        raise LimitError(msg, code="too-large")


def _check_upload(size: int, found: str, expected: str) -> None:
    if not size:
        raise FormatError("the upload is empty: send the bytes", code="empty-upload")
    if found != expected:
        msg = f"the upload has digest {found[:12]}…, expected {expected[:12]}…"
        raise FormatError(msg, code="digest-mismatch")
