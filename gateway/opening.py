"""Where a gateway's settings say that its data is: the database, blobs and uploads."""

from pathlib import Path

from gateway.jobs.membership import gateway_id
from gateway.settings import Settings
from gateway.store.blobs import Blobs, BlobStore
from gateway.store.contract_inputs import KIND as CONTRACT_INPUT
from gateway.store.database import Database
from gateway.store.parts import Parts
from gateway.store.uploads import Allowance, Uploads
from privacy.errors import FormatError


def open_database(data_dir: Path, url: str = "") -> Database:
    """Return the database at an address, or that of a data folder, made if absent."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Database(url or data_dir / "gateway.sqlite")


def open_blobs(settings: Settings) -> BlobStore:
    """Return where blobs are.

    Raises:
        FormatError: A folder and a bucket, or the bucket's address is none.
    """
    if not settings.blobs_s3:
        return Blobs(settings.blobs_dir or settings.data_dir / "blobs")
    if settings.blobs_dir:
        msg = (
            "both blobs_dir and blobs_s3 are set: blobs are in one place, leave one out"
        )
        raise FormatError(msg, code="blobs-twice")
    from gateway.store.s3 import S3Blobs

    cache = settings.data_dir / "blobs" / "copies"
    return S3Blobs(settings.blobs_s3, cache, cache_bytes=settings.blobs_cache_bytes)


def open_uploads(settings: Settings, database: Database, blobs: BlobStore) -> Uploads:
    """Return the uploads, whose files arrive on the disk of the blobs."""
    return Uploads(database, blobs, Parts(_uploads_dir(settings)), _allowance(settings))


def _allowance(settings: Settings) -> Allowance:
    return Allowance(
        max_bytes=settings.max_upload_bytes,
        quota_bytes=settings.max_bytes_by_tenant,
        ttl_s={
            "keys": settings.keys_ttl_s,
            "blob": settings.inputs_ttl_s,
            CONTRACT_INPUT: settings.contract_inputs_ttl_s,
        },
    )


def _uploads_dir(settings: Settings) -> Path:
    """Return where uploads arrive: on the disk of the blobs, to be renamed once whole.

    It is a gateway's own, for it goes on with what an earlier life of its received.
    """
    if settings.blobs_dir:
        return settings.blobs_dir / "uploads" / gateway_id(settings.data_dir)
    return settings.data_dir / "blobs" / "uploads"
