"""A published model: one directory with a manifest and one part per privacy mode.

    manifest.json      canonical JSON; its SHA-256 is the model digest
    manifest.jws       the publisher's signature; see `privacy.publisher`
    fhe/ zkml/ tee/    what each mode needs, each file pinned by the manifest

A bundle holds compiled code: install only bundles that you or your publisher made.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any

from privacy.activations import ACTIVATIONS, class_count
from privacy.encoding import (
    Json,
    canonical_json,
    check_sha256,
    parse_canonical,
    sha256_file,
    sha256_hex,
)
from privacy.errors import FormatError, NotFoundError, VerificationError
from privacy.files import write_atomic
from privacy.modes import Mode

FORMAT = "privacy-compute/bundle/1"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.jws"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Column:
    """One input feature, and how the data owner standardises it before any mode.

    The model computes on `(x - offset) / scale`; `minimum` and `maximum` are the range
    of the raw feature in the calibration data, rounded outwards.
    """

    name: str
    minimum: float
    maximum: float
    offset: float = 0.0
    scale: float = 1.0
    type: str = "number"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the bundle: digest, size, and whether clients may fetch it."""

    sha256: str
    bytes: int
    public: bool


@dataclass(frozen=True, slots=True)
class ModePart:
    """What one mode offers for this model, or why it does not.

    Attributes:
        available: Whether jobs may ask for this mode.
        reason: Why it is not available; empty if it is.
        accuracy: `rows`, `label_agreement` (0 to 1) and `max_error` against the clear
            model on held-back rows; empty if not available.
        cost: Measured on the publishing machine: `latency_s` a row and sizes in bytes.
        params: What the mode's client and node need to know; each mode's own.
    """

    available: bool
    reason: str = ""
    accuracy: Json = field(default_factory=dict)
    cost: Json = field(default_factory=dict)
    params: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle is, in full; see the module for the files around it.

    Attributes:
        task: `classification`, `regression` or `raw` (outputs as the model gives them).
        classes: Class names in output order; empty unless classification.
        activation: What the client applies to the model's raw outputs; see
            `privacy.activations`.
        outputs: Width of the raw output row.
    """

    name: str
    version: str
    task: str
    columns: tuple[Column, ...]
    outputs: int
    activation: str
    classes: tuple[str, ...]
    clear_accuracy: Json
    modes: Mapping[str, ModePart]
    files: Mapping[str, FileEntry]
    published_at: str
    tool: str

    def to_bytes(self) -> bytes:
        """Return the canonical encoding; its SHA-256 is the model digest."""
        return canonical_json({"format": FORMAT, **asdict(self)})

    def mode(self, mode: Mode) -> ModePart:
        """Return the part of a mode that is available.

        Raises:
            NotFoundError: The model does not offer it; the message says why.
        """
        part = self.modes.get(mode)
        if part is None or not part.available:
            reason = part.reason if part else "it was not published"
            offered = [m for m, p in self.modes.items() if p.available]
            msg = (
                f"model {self.name} does not offer {mode}: {reason}; "
                f"it offers {', '.join(offered) or 'no mode'}"
            )
            raise NotFoundError(msg, code="mode-not-offered")
        return part


def parse_manifest(raw: bytes) -> Manifest:
    """Return the manifest in `raw`, refusing unknown and missing members.

    Raises:
        FormatError: Not a canonical manifest of this format.
    """
    value = parse_canonical(raw, what="manifest", limit=1 << 22)
    if value.pop("format", None) != FORMAT:
        msg = f"the manifest's format is not {FORMAT}: publish with this version"
        raise FormatError(msg, code="bundle-format")
    try:
        manifest = Manifest(
            **{
                **value,
                "columns": tuple(Column(**c) for c in value["columns"]),
                "classes": tuple(value["classes"]),
                "modes": {k: ModePart(**v) for k, v in value["modes"].items()},
                "files": {k: FileEntry(**v) for k, v in value["files"].items()},
            }
        )
        _check_types(manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        msg = f"the manifest lacks, misnames or mistypes a member: {exc}"
        raise FormatError(msg, code="bundle-format") from exc
    _check(manifest)
    return manifest


def _check_types(m: Manifest) -> None:
    """Raise TypeError unless every member has the type it is declared with."""
    _typed(m, str, "name", "version", "task", "activation", "published_at", "tool")
    _typed(m, int, "outputs")
    _typed(m, dict, "clear_accuracy")
    for c in m.columns:
        _typed(c, str, "name", "type")
        _typed(c, int | float, "minimum", "maximum", "offset", "scale")
    if not all(isinstance(name, str) for name in m.classes):
        msg = "a class name is no text"
        raise TypeError(msg)
    for part in m.modes.values():
        _typed(part, bool, "available")
        _typed(part, str, "reason")
        _typed(part, dict, "accuracy", "cost", "params")
    for entry in m.files.values():
        _typed(entry, str, "sha256")
        _typed(entry, int, "bytes")
        _typed(entry, bool, "public")


def _typed(record: object, kind: type | UnionType, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        odd = isinstance(value, bool) and kind is not bool  # a bool is an int
        if odd or not isinstance(value, kind):
            msg = f"{name} is a {type(value).__name__}"
            raise TypeError(msg)


def check_name(name: str) -> str:
    """Return `name` if it can be a model's name or version.

    Raises:
        FormatError: It cannot; the message gives the rule.
    """
    if not _NAME.fullmatch(name):
        msg = (
            f"name {name[:40]!r} is not allowed: use lowercase letters, digits, "
            "'.', '_' and '-', at most 63, first a letter or digit"
        )
        raise FormatError(msg, code="bad-name")
    return name


def _check(m: Manifest) -> None:
    check_name(m.name)
    check_name(m.version)
    for path, entry in m.files.items():
        pure = PurePosixPath(path)
        outside = pure.is_absolute() or ".." in pure.parts or str(pure) != path
        if outside or not path.isprintable():
            msg = f"the manifest names a file outside the bundle: {path[:80]!r}"
            raise FormatError(msg, code="bundle-format")
        check_sha256(entry.sha256, what=f"digest of {path}")
    classes = 0
    if m.task == "classification":
        classes = class_count(m.activation, m.outputs)
    if (
        m.activation not in ACTIVATIONS
        or m.task not in {"classification", "regression", "raw"}
        or m.outputs < 1
        or len(m.classes) != classes
        or (m.task == "classification" and not classes)
        or not set(m.modes) <= set(Mode)
        or any(entry.bytes < 0 for entry in m.files.values())
        or not 0 < len({c.name for c in m.columns}) == len(m.columns)
        or any(c.scale == 0 for c in m.columns)
    ):
        raise FormatError("the manifest's schema is not usable", code="bundle-format")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        sha256: The model digest.
        publisher: Key id of the publisher whose signature was checked, else empty.
    """

    root: Path
    manifest: Manifest
    sha256: str
    publisher: str = ""

    def path(self, name: str) -> Path:
        """Return where a file of the manifest lies.

        Raises:
            NotFoundError: The manifest has no such file.
        """
        if name not in self.manifest.files:
            msg = f"model {self.manifest.name} has no file {name[:80]!r}"
            raise NotFoundError(msg)
        return self.root / name

    def check_files(self, names: Sequence[str] | None = None) -> None:
        """Compare files (all by default) with the manifest's digests.

        Raises:
            VerificationError: A file is missing or changed.
        """
        for name in names if names is not None else self.manifest.files:
            path = self.path(name)
            expected = self.manifest.files[name].sha256
            found = sha256_file(path) if path.is_file() else "nothing"
            if found != expected:
                msg = (
                    f"{name} is {found[:12]}, expected {expected[:12]}: "
                    "the bundle was changed; publish it again"
                )
                raise VerificationError(msg, code="bundle-changed")


def open_bundle(root: Path, *, check_files: bool = True) -> Bundle:
    """Return the bundle in `root`, its files checked against the manifest.

    Raises:
        NotFoundError: There is none.
        FormatError: Its manifest is malformed.
        VerificationError: A file was changed.
    """
    path = root / MANIFEST
    if not path.is_file():
        msg = f"{root} holds no {MANIFEST}: publish a model there first"
        raise NotFoundError(msg, code="no-bundle")
    raw = path.read_bytes()
    bundle = Bundle(root=root, manifest=parse_manifest(raw), sha256=sha256_hex(raw))
    if check_files:
        bundle.check_files()
    return bundle


def list_files(root: Path, public: frozenset[str]) -> dict[str, FileEntry]:
    """Return the entries of every file under `root`, for a manifest."""
    return {
        name: FileEntry(sha256_file(p), p.stat().st_size, name in public)
        for p in sorted(root.rglob("*"))
        if p.is_file()
        and (name := p.relative_to(root).as_posix()) not in {MANIFEST, SIGNATURE}
    }


def write_manifest(root: Path, manifest: Manifest) -> Bundle:
    """Write the manifest beside files already in place, and return the bundle."""
    raw = manifest.to_bytes()
    parse_manifest(raw)
    write_atomic(root / MANIFEST, raw)
    return Bundle(root=root, manifest=manifest, sha256=sha256_hex(raw))


def standardise(rows: Sequence[Sequence[float]], columns: Sequence[Column]) -> Any:
    """Return rows as the model computes on them: float64, shape (rows, columns)."""
    import numpy as np

    offset = np.array([c.offset for c in columns])
    scale = np.array([c.scale for c in columns])
    return (np.asarray(rows, dtype=np.float64) - offset) / scale
