"""The models of this gateway: bundles under `models_dir/NAME/VERSION/`."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from privacy.bundle import MANIFEST, SIGNATURE, Bundle, ModePart
from privacy.errors import (
    FormatError,
    NotFoundError,
    PrivacyError,
    UnavailableError,
)
from privacy.modes import Mode
from privacy.publisher import Trust, open_trusted
from privacy.tee.measure import Program, measure_folder
from privacy.tee_zkml.program import PROGRAMS

_log = structlog.get_logger()
_Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A bundle folder as it was when last looked at; `bundle` is None if unusable."""

    stamp: _Stamp
    bundle: Bundle | None


class ModelRegistry:
    """Bundles found on disk that trusted publishers signed.

    A folder is read again only when its manifest or signature changes; one that was not
    usable, when any file of it does, for it may have been half copied; every one, when
    other publishers are trusted than before. While nobody can say who is trusted, no
    model is given out; jobs that were accepted before go on, as they would have.
    """

    def __init__(
        self, models_dir: Path, trust: Callable[[], Trust], *, fresh_s: float = 2.0
    ) -> None:
        """Read `models_dir`, and again when what was read is older than `fresh_s`.

        Args:
            models_dir: Where bundles lie.
            trust: Says, at every reading, whose bundles may be loaded.
            fresh_s: How old a reading may be, in seconds.

        Raises:
            PrivacyError: `trust` cannot say.
        """
        self._models_dir = models_dir
        self._ask_trust = trust
        self._trust = trust()
        self._trust_known = True
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._seen: dict[Path, _Seen] = {}
        self._read_at = float("-inf")
        self.refresh()

    def refresh(self) -> None:
        """Read new and changed bundles, and forget those that are gone."""
        with self._lock:
            self._read()

    def all(self) -> list[Bundle]:
        """Return every usable bundle, the newest first.

        Raises:
            UnavailableError: Whom to trust cannot be read.
        """
        found = self._all()
        self.check_trust()
        return found

    def check_trust(self) -> None:
        """Raise if it could not be read, last time, whom to trust.

        Raises:
            UnavailableError: It could not.
        """
        if not self._trust_known:
            msg = (
                "the gateway cannot read whose models to trust, so it serves none: "
                "its operator has to mend the file that its log names"
            )
            raise UnavailableError(msg, code="trust-unreadable")

    def _all(self) -> list[Bundle]:
        is_old = time.monotonic() - self._read_at > self._fresh_s
        # If another thread reads just now, perhaps a large new bundle, do not wait.
        if is_old and self._lock.acquire(blocking=False):
            try:
                self._read()
            finally:
                self._lock.release()
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
            UnavailableError: Whom to trust cannot be read.
        """
        found = self.accepted(name, version)
        self.check_trust()
        return found

    def accepted(self, name: str, version: str | None) -> Bundle:
        """Return the bundle of a job that was accepted; see `get`.

        Raises:
            NotFoundError: There is no such model or version.
        """
        found = self._match(name, version)
        if not found:
            self.refresh()
            found = self._match(name, version)
        if not found:
            there = [b.manifest for b in self._all()]
            names = sorted({m.name for m in there})
            versions = [f"{m.name}/{m.version}" for m in there if m.name == name]
            wanted = name[:63] if version is None else f"{name[:63]}/{version[:63]}"
            msg = (
                f"there is no model {wanted!r}; this gateway has "
                f"{', '.join(versions or names)[:300] or 'none: publish one first'}"
            )
            raise NotFoundError(msg, code="unknown-model")
        return found[0]

    def _match(self, name: str, version: str | None) -> list[Bundle]:
        return [
            b
            for b in self._all()
            if b.manifest.name == name and version in {None, b.manifest.version}
        ]

    def _read(self) -> None:
        self._renew_trust()
        roots = sorted(p.parent for p in self._models_dir.glob(f"*/*/{MANIFEST}"))
        self._seen = {root: self._look(root) for root in roots}
        self._read_at = time.monotonic()

    def _renew_trust(self) -> None:
        """Forget what was read if other publishers are trusted than before."""
        try:
            trust = self._ask_trust()
        except (PrivacyError, OSError) as exc:
            _log.error("trust-unreadable", why=str(exc), todo="mend the file")
            self._trust_known = False
            return
        self._trust_known = True
        if trust != self._trust:
            self._trust, self._seen = trust, {}

    def _look(self, root: Path) -> _Seen:
        seen = self._seen.get(root)
        if seen and seen.stamp == _stamp(root, whole=seen.bundle is None):
            return seen
        before, whole = (_stamp(root, whole=w) for w in (False, True))
        try:
            return _Seen(before, _open(root, self._trust))
        except (PrivacyError, OSError) as exc:
            code = exc.code if isinstance(exc, PrivacyError) else type(exc).__name__
            _log.error(
                "bundle-skipped",
                bundle=f"{root.parent.name}/{root.name}",
                why=str(exc),
                code=code,
            )
            return _Seen(whole, None)


def _stamp(root: Path, *, whole: bool) -> _Stamp:
    """Return what shows that a bundle's head, or any of its files, changed."""
    files = []
    head = [root / MANIFEST, root / SIGNATURE]
    for path in sorted(root.rglob("*")) if whole else head:
        with contextlib.suppress(OSError):  # it vanished meanwhile
            stat = path.stat()
            files.append((path.name, stat.st_mtime_ns, stat.st_size))
    return tuple(files)


def _open(root: Path, trust: Trust) -> Bundle:
    bundle = open_trusted(root, trust)
    named = (bundle.manifest.name, bundle.manifest.version)
    if named != (root.parent.name, root.name):
        msg = f"the folder is named {root.parent.name}/{root.name}, the bundle {named}"
        raise FormatError(msg, code="bundle-misplaced")
    _warn_of_other_measurements(bundle)
    return bundle


def _warn_of_other_measurements(bundle: Bundle) -> None:
    """Log if clients will refuse an enclave: it measures else than was published."""
    for mode, program in PROGRAMS.items():
        part = bundle.manifest.modes.get(mode)
        if part is not None and part.available:
            _compare_measurements(bundle, part, program)


def _compare_measurements(bundle: Bundle, part: ModePart, program: Program) -> None:
    try:
        found = measure_folder(bundle.root / Mode.TEE, program).as_dict()
    except (PrivacyError, OSError):
        return  # the mode is not installed here: its jobs will say so
    published = part.params.get("measurements")
    expected = published if isinstance(published, dict) else {}
    other = [name for name, value in found.items() if expected.get(name) != value]
    if other:
        _log.warning(
            "enclave-measurements-differ",
            bundle=f"{bundle.manifest.name}/{bundle.manifest.version}",
            registers=other,
            todo="clients will refuse this enclave: publish the model again here",
        )
