"""Blobs on disk, named by their SHA-256; tenants own what they uploaded themselves.

Two tenants that upload the same bytes share one file but never learn of each other.
"""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from gateway.clock import now
from gateway.store.database import Database
from gateway.store.tables import blobs
from privacy.encoding import check_sha256, sha256_file
from privacy.errors import FormatError, LimitError, NotFoundError


class Blobs:
    """The blobs of this gateway."""

    def __init__(self, database: Database, folder: Path) -> None:
        """Keep files under `folder`; half-written ones of an earlier life go."""
        self._database = database
        self._folder = folder
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
            LimitError: More than `max_bytes`.
            FormatError: Empty, or the digest is not `sha256`.
        """
        check_sha256(sha256)
        _check_size(announced_bytes, max_bytes)
        part, size, digest = self._part(), 0, hashlib.sha256()
        try:
            with part.open("xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    _check_size(size, max_bytes)
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            _check_upload(size, digest.hexdigest(), sha256)
        except BaseException:
            part.unlink()
            raise
        return part, size

    def own(self, part: Path, *, tenant: str, kind: str, sha256: str) -> bool:
        """Keep a received file for a tenant; tell whether it is new to the tenant."""
        size = part.stat().st_size
        self._keep(part, sha256)
        row = {"tenant": tenant, "kind": kind, "sha256": sha256, "bytes": size}
        with self._database.write() as connection:
            added = connection.execute(
                insert(blobs).values(**row, created_at=now()).on_conflict_do_nothing()
            )
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
        query = sa.select(blobs.c.bytes).where(
            blobs.c.tenant == tenant,
            blobs.c.kind == kind,
            blobs.c.sha256 == check_sha256(sha256),
        )
        with self._database.read() as connection:
            size: int | None = connection.execute(query).scalar()
        if size is None:
            what = "evaluation keys" if kind == "keys" else "input"
            where = "keys" if kind == "keys" else "blobs"
            msg = f"{what} {sha256[:12]}… not found: upload to /v1/{where}/ first"
            raise NotFoundError(msg, code=f"unknown-{kind}")
        return size

    def _part(self) -> Path:
        return self._uploads / secrets.token_hex(8)

    def _keep(self, file: Path, sha256: str) -> None:
        final = self.path(sha256)
        if final.exists():
            file.unlink()
            return
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
