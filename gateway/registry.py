"""The models of this gateway: bundles under `models_dir/NAME/VERSION/`."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from privacy.bundle import MANIFEST, Bundle, open_bundle
from privacy.errors import FormatError, NotFoundError, PrivacyError

_log = structlog.get_logger()
_Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A bundle folder as it was when last looked at; `bundle` is None if unusable."""

    stamp: _Stamp
    bundle: Bundle | None


class ModelRegistry:
    """Bundles found on disk. A folder is read again only when its manifest changes."""

    def __init__(self, models_dir: Path, *, fresh_s: float = 2.0) -> None:
        """Read `models_dir`, and again when what was read is older than `fresh_s`."""
        self._models_dir = models_dir
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._seen: dict[Path, _Seen] = {}
        self._read_at = float("-inf")
        self.refresh()

    def refresh(self) -> None:
        """Read new and changed bundles, and forget those that are gone."""
        with self._lock:
            found = {p.parent: p for p in self._models_dir.glob(f"*/*/{MANIFEST}")}
            self._seen = {
                root: self._look(root, path) for root, path in sorted(found.items())
            }
            self._read_at = time.monotonic()

    def all(self) -> list[Bundle]:
        """Return every usable bundle, the newest first."""
        if time.monotonic() - self._read_at > self._fresh_s:
            self.refresh()
        bundles = [s.bundle for s in self._seen.values() if s.bundle]
        return sorted(
            bundles,
            key=lambda b: (b.manifest.published_at, b.manifest.version),
            reverse=True,
        )

    def get(self, name: str, version: str | None = None) -> Bundle:
        """Return a model's bundle, by default the version published last.

        Raises:
            NotFoundError: There is no such model or version.
        """
        found = self._match(name, version)
        if not found:
            self.refresh()
            found = self._match(name, version)
        if not found:
            names = sorted({b.manifest.name for b in self.all()})
            wanted = name[:63] if version is None else f"{name[:63]} {version[:63]}"
            msg = (
                f"there is no model {wanted!r}; this gateway has "
                f"{', '.join(names)[:300] or 'none: publish one first'}"
            )
            raise NotFoundError(msg, code="unknown-model")
        return found[0]

    def _match(self, name: str, version: str | None) -> list[Bundle]:
        return [
            b
            for b in self.all()
            if b.manifest.name == name and version in {None, b.manifest.version}
        ]

    def _look(self, root: Path, path: Path) -> _Seen:
        try:
            stat = path.stat()
        except OSError:
            return _Seen((0, 0), None)
        stamp = (stat.st_mtime_ns, stat.st_size)
        seen = self._seen.get(root)
        if seen and seen.stamp == stamp:
            return seen
        try:
            return _Seen(stamp, _open(root))
        except (PrivacyError, OSError) as exc:
            code = exc.code if isinstance(exc, PrivacyError) else type(exc).__name__
            _log.error(
                "bundle-skipped",
                bundle=f"{root.parent.name}/{root.name}",
                why=str(exc),
                code=code,
            )
            return _Seen(stamp, None)


def _open(root: Path) -> Bundle:
    bundle = open_bundle(root)
    named = (bundle.manifest.name, bundle.manifest.version)
    if named != (root.parent.name, root.name):
        msg = f"the folder is named {root.parent.name}/{root.name}, the bundle {named}"
        raise FormatError(msg, code="bundle-misplaced")
    return bundle
