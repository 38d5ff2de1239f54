"""Uploads on their way: files that grow, and those that wait to be gone on with.

`OWNER.HEX` is being written by one request; `OWNER.part` is what a broken connection
left. A request that goes on renames it first, so that two can never write to one file.
"""

import asyncio
import hashlib
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from gateway.store.arrival import Arrival, Room
from privacy.encoding import check_sha256, sha256_file
from privacy.errors import (
    ConflictError,
    FormatError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
)

PART_TTL_S = 86400.0
_RESERVE_BYTES = 1 << 28  # of the disk, so that jobs can still be written down
_PATIENCE_S = 60.0
_SETTLE_S = 1.0
_KEEP_BYTES = 1 << 20  # less is sent again faster than it is gone on with


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose upload of what: a tenant, a kind such as `keys`, and the digest."""

    tenant: str
    kind: str
    sha256: str

    def __post_init__(self) -> None:
        """Refuse what is no digest: it becomes a file name."""
        check_sha256(self.sha256)

    @property
    def name(self) -> str:
        """The stem of its files; no tenant's name holds a plus sign."""
        return f"{self.tenant}+{self.kind}+{self.sha256}"


def unknown_upload(kind: str, sha256: str) -> NotFoundError:
    """Return the error of an upload that its tenant does not have."""
    what, where = "input", "blobs"
    if kind == "keys":
        what, where = "evaluation keys", "keys"
    msg = f"{what} {sha256[:12]}… not found: upload to /v1/{where}/ first"
    return NotFoundError(msg, code=f"unknown-{kind}")


class Parts:
    """The folder of uploads on their way."""

    def __init__(
        self,
        folder: Path,
        *,
        reserve_bytes: int = _RESERVE_BYTES,
        patience_s: float = _PATIENCE_S,
        keep_bytes: int = _KEEP_BYTES,
    ) -> None:
        """Use `folder`; what an earlier life was receiving can be gone on with.

        Args:
            folder: For the files.
            reserve_bytes: Uploads end when the disk has no more room than this.
            patience_s: How far an upload may fall behind 10 kB a second.
            keep_bytes: Of a broken upload, less than this is not kept.
        """
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._patience_s = patience_s
        self._keep_bytes = keep_bytes
        self._arrivals: dict[str, list[Arrival]] = {}
        self._brought: Counter[str] = Counter()  # bytes that came, by tenant
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left_over in folder.iterdir():
            if left_over.suffix != ".part":
                self._shelve(left_over)

    def offset(self, owner: Owner) -> int:
        """Return how many bytes of a broken upload are here."""
        try:
            return self._shelved(owner).stat().st_size
        except FileNotFoundError:
            return 0

    async def settle(self, owner: Owner) -> None:
        """Wait until requests of a dead connection have ended, at most a second or so.

        Whoever lost a connection asks at once how much came; we may not know of the
        loss yet. A request from which nothing came for a second is ended.
        """
        asked_at = time.monotonic()
        while arrivals := self._arrivals.get(owner.name):
            at = time.monotonic()
            if at > asked_at + 2 * _SETTLE_S:
                return  # another request that goes on: leave it alone
            for arrival in arrivals:
                if at > arrival.last_at + _SETTLE_S:
                    arrival.end()
            await asyncio.sleep(_SETTLE_S / 50)

    def bytes_of(self, tenant: str) -> int:
        """Return how many bytes a tenant has on their way."""
        total = 0
        for path in self._folder.glob(f"{tenant}+*"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue  # it has arrived meanwhile
        return total

    def tenants(self) -> set[str]:
        """Return the tenants that have something on its way."""
        return {path.name.partition("+")[0] for path in self._folder.iterdir()}

    def write(self, content: bytes, owner: Owner) -> Path:
        """Return a file with an upload that came as a whole.

        Raises:
            UnavailableError: The disk is full.
        """
        self._check_disk()
        part = self._claim(owner, 0)
        part.write_bytes(content)
        return part

    def discard(self, owner: Owner) -> None:
        """Remove what a broken upload left."""
        self._shelved(owner).unlink(missing_ok=True)

    def discard_all(self, tenant: str) -> None:
        """Remove what broken uploads of a tenant left."""
        for path in self._folder.glob(f"{tenant}+*.part"):
            path.unlink(missing_ok=True)

    def sweep(self, *, older_than_s: float = PART_TTL_S) -> int:
        """Remove what nobody went on with for so long; return how many."""
        horizon, removed = time.time() - older_than_s, 0
        for path in self._folder.glob("*.part"):
            try:
                is_old = path.stat().st_mtime < horizon
            except FileNotFoundError:
                continue  # somebody goes on with it just now
            if is_old:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    async def receive(
        self,
        chunks: AsyncIterator[bytes],
        *,
        owner: Owner,
        room: Room,
        offset: int = 0,
        announced_bytes: int = 0,
    ) -> tuple[Path, int]:
        """Write an upload, or the rest of one; give file and size.

        What a broken or slow connection leaves is kept; nothing else is. Bytes are
        hashed as they come, or once all are here if they came in several requests:
        however often a connection breaks, none is read twice.

        Raises:
            ConflictError: Another number of bytes than `offset` is here.
            LimitError: More than there is room for, all the tenant's requests
                together, or too slow.
            FormatError: Empty, or the digest is not the owner's.
            UnavailableError: The disk is full.
        """
        room.check(offset + announced_bytes)
        part = self._claim(owner, offset)
        arrival = Arrival(chunks, patience_s=self._patience_s)
        arrivals = self._arrivals.setdefault(owner.name, [])
        arrivals.append(arrival)
        tenant, before = owner.tenant, self._brought[owner.tenant]
        try:
            digest = hashlib.sha256()
            with part.open("ab") as file:
                while (chunk := await arrival.next()) is not None:
                    self._brought[tenant] += len(chunk)
                    others = self._brought[tenant] - before - arrival.size
                    room.check(offset + arrival.size, others=others)
                    self._check_disk()
                    if not offset:
                        digest.update(chunk)
                    file.write(chunk)
            size, found = offset + arrival.size, digest.hexdigest()
            if offset:
                found = await asyncio.to_thread(sha256_file, part)
            _check_upload(size, found, owner.sha256)
        except PrivacyError as exc:
            if exc.code == "upload-too-slow":
                self._shelve(part)
            else:
                part.unlink(missing_ok=True)
                self._brought[tenant] -= arrival.size
            raise
        except BaseException:  # the connection broke, or the gateway stops
            self._shelve(part)
            raise
        finally:
            arrivals.remove(arrival)
            if not arrivals:
                self._arrivals.pop(owner.name, None)
        return part, size

    def _claim(self, owner: Owner, offset: int) -> Path:
        """Return the file to write to, which no other request knows."""
        mine = self._folder / f"{owner.name}.{secrets.token_hex(8)}"
        shelved = self._shelved(owner)
        if not offset:
            return mine
        try:
            shelved.rename(mine)
        except FileNotFoundError:
            raise _wrong_offset(0, offset) from None
        if (size := mine.stat().st_size) != offset:
            self._shelve(mine)
            raise _wrong_offset(size, offset)
        return mine

    def _shelve(self, part: Path) -> None:
        """Keep a broken upload, unless it is short or a longer one is here."""
        shelved = part.with_suffix(".part")
        try:
            size = part.stat().st_size
        except FileNotFoundError:
            return  # it broke before its first byte
        longest = shelved.stat().st_size if shelved.exists() else 0
        if size < self._keep_bytes or size < longest:
            part.unlink(missing_ok=True)
        else:
            part.replace(shelved)

    def _shelved(self, owner: Owner) -> Path:
        return self._folder / f"{owner.name}.part"

    def _check_disk(self) -> None:
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < self._reserve_bytes:
            msg = "the gateway's disk is full: the operator has to make room"
            raise UnavailableError(msg, code="storage-full")


def _wrong_offset(found: int, given: int) -> ConflictError:
    msg = f"{found} bytes of this upload are here, not {given}: ask with HEAD, go on"
    return ConflictError(msg, code="upload-offset")


def _check_upload(size: int, found: str, expected: str) -> None:
    if not size:
        raise FormatError("the upload is empty: send the bytes", code="empty-upload")
    if found != expected:
        msg = f"the upload has digest {found[:12]}…, expected {expected[:12]}…"
        raise FormatError(msg, code="digest-mismatch")
