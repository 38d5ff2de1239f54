"""What a node was sent: blobs by digest and bundles, the oldest ones not in use go."""

import hashlib
import os
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from privacy.bundle import MANIFEST, SIGNATURE, Bundle, Manifest, parse_manifest
from privacy.encoding import check_sha256
from privacy.errors import FormatError, LimitError
from privacy.files import make_folder, write_atomic
from privacy.modes import Mode

_SILENT_S = 600.0


class Cache:
    """Files of one node actor, in a folder of its own; thread-safe.

    Attributes:
        lock: Held while nothing may be removed: from looking what is missing until
            what is here is in use.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        """Begin empty: what an earlier actor left is removed."""
        shutil.rmtree(folder, ignore_errors=True)
        self._blobs, self._parts = folder / "blobs", folder / "parts"
        self._models = folder / "models"
        for place in (self._blobs, self._parts, self._models):
            make_folder(place, private=True)
        self.lock = threading.RLock()
        self._limit_bytes = limit_bytes
        self._sizes: OrderedDict[Path, int] = OrderedDict()
        self._in_use: Counter[Path] = Counter()
        self._manifests: dict[str, Manifest] = {}
        self._signatures: dict[Path, str] = {}

    def blob(self, sha256: str) -> Path:
        """Return where a blob lies, if it is here."""
        return self._blobs / check_sha256(sha256)

    def missing(self, sha256s: Collection[str]) -> list[str]:
        """Return which blobs are not here."""
        return [sha256 for sha256 in sha256s if self.blob(sha256) not in self._sizes]

    def write(
        self, sha256: str, send_id: str, offset: int, chunk: memoryview, *, last: bool
    ) -> None:
        """Add a piece to a blob; with the last one it is here, if it is that blob.

        Args:
            sha256: The blob's digest.
            send_id: Names one transfer: the same blob may come from two gateways.
            offset: Where the piece begins.
            chunk: The piece.
            last: Whether the blob ends with it.

        Raises:
            FormatError: The bytes are not those of the digest.
            LimitError: There is no room for it.
        """
        final = self.blob(sha256)
        part = self._parts / f"{sha256}.{check_sha256(send_id)}"
        with part.open("ab") as file:
            if file.tell() != offset:
                part.unlink()
                msg = "a piece of a blob came out of order: send it again"
                raise FormatError(msg, code="blob-pieces")
            file.write(chunk)
        if not last:
            return
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            part.unlink()
            msg = f"the blob is {found[:12]}…, expected {sha256[:12]}…: send it again"
            raise FormatError(msg, code="wrong-digest")
        with self.lock:
            size = part.stat().st_size
            self._room(size)
            part.replace(final)
            self._sizes[final] = size

    def missing_of_model(self, model_sha256: str, mode: Mode) -> list[str]:
        """Return which blobs a model's parts for a mode lack; the manifest first."""
        with self.lock:  # another thread may just make the model of these blobs
            names = self._unmade(model_sha256, mode)
            return self.missing(set(names.values()))

    def model(self, model_sha256: str, mode: Mode, *, signature: str) -> Bundle:
        """Return a model with the parts of a mode, made of blobs that are here."""
        with self.lock:
            return self._model(model_sha256, mode, signature)

    def _model(self, model_sha256: str, mode: Mode, signature: str) -> Bundle:
        names = self._unmade(model_sha256, mode)
        root = self._models / model_sha256
        for name, sha256 in names.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.unlink(missing_ok=True)
            os.link(self.blob(sha256), path)
        for blob in {self.blob(sha256) for sha256 in names.values()}:
            blob.unlink()  # what a model takes is counted once
            del self._sizes[blob]
        if signature and self._signatures.get(root) != signature:
            write_atomic(root / SIGNATURE, signature.encode())
            self._signatures[root] = signature
        if names:
            self._sizes[root] = sum(p.stat().st_size for p in _files(root))
        self._sizes.move_to_end(root)
        manifest = self._manifest(model_sha256, root / MANIFEST)
        return Bundle(root=root, manifest=manifest, sha256=model_sha256)

    @contextmanager
    def using(self, *paths: Path) -> Iterator[None]:
        """Keep files meanwhile, and count them as used just now."""
        with self.lock:
            for path in paths:
                self._in_use[path] += 1
                if path in self._sizes:
                    self._sizes.move_to_end(path)
        try:
            yield
        finally:
            with self.lock:
                self._in_use.subtract(paths)
                for path in paths:
                    if not self._in_use[path]:
                        self._in_use.pop(path, None)

    def _unmade(self, model_sha256: str, mode: Mode) -> dict[str, str]:
        """Return files that a model's folder lacks, by name: their digests."""
        root = self._models / check_sha256(model_sha256)
        where, names = root / MANIFEST, dict[str, str]()
        if not where.exists():
            where, names = self.blob(model_sha256), {MANIFEST: model_sha256}
            if where not in self._sizes:
                return names
        wanted = tuple(f"{part}/" for part in mode.parts)
        return names | {
            name: entry.sha256
            for name, entry in self._manifest(model_sha256, where).files.items()
            if name.startswith(wanted) and not (root / name).exists()
        }

    def _manifest(self, model_sha256: str, where: Path) -> Manifest:
        """Return a model's manifest, read once: every job asks for it."""
        if model_sha256 not in self._manifests:
            self._manifests[model_sha256] = parse_manifest(where.read_bytes())
        return self._manifests[model_sha256]

    def remove_broken(self) -> None:
        """Remove what came of blobs whose sender has gone silent in the middle."""
        horizon = time.time() - _SILENT_S
        for part in self._parts.iterdir():
            with suppress(FileNotFoundError):  # it has become whole meanwhile
                if part.stat().st_mtime < horizon:
                    part.unlink()

    def _remove(self, path: Path) -> None:
        del self._sizes[path]
        self._manifests.pop(path.name, None)
        self._signatures.pop(path, None)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _room(self, needed: int) -> None:
        """Remove what was used longest ago until there is room."""
        for path in list(self._sizes):
            if sum(self._sizes.values()) + needed <= self._limit_bytes:
                return
            if not self._in_use[path]:
                self._remove(path)
        if sum(self._sizes.values()) + needed > self._limit_bytes:
            msg = (
                f"the node keeps at most {self._limit_bytes >> 20} MiB of keys and "
                "models, which are in use: raise node_cache_bytes there"
            )
            raise LimitError(msg, code="node-cache-full")


def _files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file())
