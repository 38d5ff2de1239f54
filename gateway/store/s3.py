"""Blobs in an S3-compatible bucket, with a folder of copies for workers.

Credentials, region and address are boto3's usual ones (`AWS_ACCESS_KEY_ID`, …,
`AWS_ENDPOINT_URL_S3` for another server than Amazon's). An object is named by its
digest, which every copy is checked against, so none goes stale. Copies of blobs that
nothing names any more go at a sweep, once they are not new; those that were not used
lately, when they take more room than they may.

Uploads and downloads are no part of a transaction. What has to be, for nobody may name
a blob while it is removed, is one short request, which a slow bucket has fail soon.
"""

import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from gateway.store.away import StoreAwayError
from gateway.store.blobs import SMALL_BYTES, BlobRemovedError, lost, missing
from privacy.encoding import check_sha256, sha256_file
from privacy.errors import FormatError, UnavailableError

_log = structlog.get_logger()
_AT_ONCE = 1000  # as many as one request may delete
_IN_USE_S = 3600.0  # a copy that was asked for so lately may be a worker's input
_NEW_S = 300.0  # one that nothing names may be of a transaction that is tried again
_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})


class S3Blobs:
    """The blobs of a bucket; as `gateway.store.blobs.Blobs`."""

    def __init__(self, url: str, cache: Path, *, cache_bytes: int) -> None:
        """Use a bucket.

        Args:
            url: s3://BUCKET or s3://BUCKET/PREFIX.
            cache: The folder of copies.
            cache_bytes: What copies may take together.

        Raises:
            FormatError: The address is none.
            UnavailableError: boto3 is not installed.
        """
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query:
            msg = f"blobs_s3 is {url[:100]!r}, expected s3://BUCKET or with a prefix"
            raise FormatError(msg, code="blobs-url")
        self._bucket = parts.netloc
        prefix = parts.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._cache, self._cache_bytes = cache, cache_bytes
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._s3 = _client(connect_timeout=5, read_timeout=30, attempts=3)
        # Transactions wait for another 10 s, and pause for 30 s, at the longest.
        self._brief = _client(connect_timeout=2, read_timeout=6, attempts=1)

    def fetch(self, sha256: str) -> Path:
        """Return a copy of a blob on this machine.

        Raises:
            NotFoundError: There is none, or other bytes lay under its name.
            StoreAwayError: The bucket cannot be reached.
        """
        copy = self._copy(sha256)
        with suppress(FileNotFoundError):
            os.utime(copy)
            return copy
        arriving = copy.with_name(f"{sha256}.{secrets.token_hex(8)}")
        try:
            with _away():
                self._s3.download_file(self._bucket, self._key(sha256), str(arriving))
            if sha256_file(arriving) != sha256:
                self._remove_damaged(sha256)
                raise missing(sha256)
            arriving.chmod(0o600)
            arriving.replace(copy)
        except FileNotFoundError:
            raise missing(sha256) from None
        finally:
            arriving.unlink(missing_ok=True)
        return copy

    def has(self, sha256: str, size: int) -> bool:
        """Whether the blob is here, whole."""
        with suppress(FileNotFoundError):
            return self._copy(sha256).stat().st_size == size
        return self._stored(self._s3, sha256, size)

    def bring(self, file: Path, sha256: str) -> None:
        """Upload a file before a transaction names it, for that may take a while."""
        here = self._here(file, sha256)
        if not self._stored(self._s3, sha256, here.stat().st_size):
            with _away():
                self._s3.upload_file(str(here), self._bucket, self._key(sha256))

    def keep(self, file: Path, sha256: str) -> None:
        """Make sure in the transaction that names it that the blob is here.

        Raises:
            BlobRemovedError: It was removed since it was brought.
            StoreAwayError: The bucket cannot be reached, or takes its time.
        """
        here = self._here(file, sha256)
        if not self._stored(self._brief, sha256, here.stat().st_size):
            msg = f"blob {sha256[:12]}… was removed just now: try again"
            raise BlobRemovedError(msg)
        here.chmod(0o600)
        with suppress(OSError):  # on another disk: it is fetched when it is needed
            here.replace(self._copy(sha256))

    def small(self, sha256: str) -> bytes | None:
        """Return a blob that is small, for which streaming would only cost time."""
        copy = self.fetch(sha256)
        try:
            return copy.read_bytes() if copy.stat().st_size <= SMALL_BYTES else None
        except FileNotFoundError:  # removed just now
            raise missing(sha256) from None

    def older_than(self, seconds: float) -> set[str]:
        """Return the digests of blobs that have lain here for so long.

        Objects of others, in a bucket that is not ours alone, are left alone.
        """
        horizon, found = time.time() - seconds, set[str]()
        with _away():
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    if entry["LastModified"].timestamp() <= horizon:
                        with suppress(FormatError):
                            found.add(check_sha256(entry["Key"][len(self._prefix) :]))
        return found

    def remove(self, digests: Collection[str]) -> int:
        """Remove blobs; return how many names went.

        Raises:
            StoreAwayError: Some are still there: what names them has to stay, so that
                the next sweep finds them.
        """
        names = sorted(digests)
        for at in range(0, len(names), _AT_ONCE):
            some = names[at : at + _AT_ONCE]
            keys = [{"Key": self._key(sha256)} for sha256 in some]
            with _away():
                answer = self._brief.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True}
                )
            _check_removed(answer.get("Errors", ()))
            for sha256 in some:
                self._copy(sha256).unlink(missing_ok=True)
        return len(names)

    def copies(self) -> set[str]:
        """Return the digests of blobs of which this machine has a copy."""
        return {path.name for path in self._cache.iterdir() if not path.suffix}

    def trim(self, *, in_use: Collection[str], gone: Collection[str]) -> int:
        """Remove copies of what is gone, and old ones if all take too much room.

        Args:
            in_use: Digests of copies that jobs may need.
            gone: Digests of blobs that were removed, here or by another gateway, or
                that a transaction is about to name.
        """
        found, removed, at = [], 0, time.time()
        for path in self._cache.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                age_s = at - status.st_mtime
                broken_off = path.suffix and age_s > _IN_USE_S
                if broken_off or (path.name in gone and age_s > _NEW_S):
                    path.unlink(missing_ok=True)
                    removed += 1
                else:
                    found.append((status.st_mtime, status.st_size, path))
        room = self._cache_bytes - sum(size for _, size, _ in found)
        for used_at, size, path in sorted(found):
            if room >= 0 or used_at > at - _IN_USE_S:
                break
            if path.name not in in_use:
                path.unlink(missing_ok=True)
                room, removed = room + size, removed + 1
        return removed

    def _remove_damaged(self, sha256: str) -> None:
        """Remove what is not what its name says, so that it can be uploaded again."""
        _log.error("blob-damaged", sha256=sha256)
        with _away():
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(sha256))

    def _stored(self, client: Any, sha256: str, size: int) -> bool:
        try:
            with _away():
                head = client.head_object(Bucket=self._bucket, Key=self._key(sha256))
        except FileNotFoundError:
            return False
        return bool(head["ContentLength"] == size)

    def _here(self, file: Path, sha256: str) -> Path:
        """Return a file, or where it was moved to in a transaction that failed.

        It counts as new from now on, so that `trim` leaves it to the next try.

        Raises:
            BlobLostError: It is nowhere.
        """
        here = file if file.exists() else self._copy(sha256)
        try:
            os.utime(here)
        except FileNotFoundError:
            raise lost(sha256) from None
        return here

    def _key(self, sha256: str) -> str:
        return f"{self._prefix}{check_sha256(sha256)}"

    def _copy(self, sha256: str) -> Path:
        return self._cache / check_sha256(sha256)


def _check_removed(errors: Sequence[Mapping[str, str]]) -> None:
    """Refuse an answer that names objects which were not removed."""
    if errors:
        code = str(errors[0].get("Code", ""))[:40]
        _log.error("blobs-not-removed", blobs=len(errors), code=code)
        msg = f"the bucket did not remove {len(errors)} blobs ({code}): try again later"
        raise StoreAwayError(msg, code="blobs-unavailable")


def _client(*, connect_timeout: float, read_timeout: float, attempts: int) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as exc:
        msg = "blobs_s3 needs boto3: pip install 'privacy-compute[s3]'"
        raise UnavailableError(msg, code="engine-missing") from exc
    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
    )
    return boto3.client("s3", config=config)


@contextmanager
def _away() -> Iterator[None]:
    """Turn boto3's errors into ours; an object that is absent is a missing file.

    Raises:
        FileNotFoundError: There is no such object.
        StoreAwayError: "blobs-unavailable".
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as exc:
        code = str(exc.response.get("Error", {}).get("Code", ""))
        if code in _ABSENT:
            raise FileNotFoundError from exc
        msg = f"the bucket of blobs refuses ({code[:40]}): try again in a few seconds"
        raise StoreAwayError(msg, code="blobs-unavailable") from exc
    except (BotoCoreError, Boto3Error) as exc:
        msg = "the bucket of blobs cannot be reached: try again in a few seconds"
        raise StoreAwayError(msg, code="blobs-unavailable") from exc
