"""What an earlier search found, so that the same question is not searched again.

One JSON file a question: the digest of the model, the data, the options, the versions
of the compilers and the kind of machine.
"""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from privacy import __version__
from privacy.encoding import (
    Json,
    canonical_json,
    parse_canonical,
    sha256_file,
    sha256_hex,
)
from privacy.errors import FormatError
from privacy.fhe.options import Options
from privacy.files import write_atomic
from privacy.publishing import PartRequest

_LIMIT = 1 << 20


class Memory:
    """The place of one search's result; nowhere if the request has no cache."""

    def __init__(self, request: PartRequest, options: Options) -> None:
        """Find the place; reads the model's and the data's files."""
        self._path: Path | None = None
        if request.cache is not None:
            self._path = request.cache / f"{_digest(request, options)}.json"

    def find(self) -> Json | None:
        """Return the report of an earlier search, or None."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            report = parse_canonical(
                self._path.read_bytes(), what="a tuner's result", limit=_LIMIT
            )
        except FormatError:  # torn or edited: search again
            return None
        return report if isinstance(report.get("chosen"), str) else None

    def keep(self, report: Json) -> None:
        """Keep the report of a search."""
        if self._path is not None:
            write_atomic(self._path, canonical_json(report))


def _digest(request: PartRequest, options: Options) -> str:
    files = {
        "onnx": request.onnx,
        "estimator": request.estimator,
        "calibration": request.calibration,
        "truth": request.truth,
    }
    asked: Json = {
        "files": {k: sha256_file(p) if p else "" for k, p in files.items()},
        "options": asdict(options),
        "task": request.task,
        "activation": request.activation,
        "machine": platform.machine(),
        "versions": {
            "privacy-compute": __version__,
            **{p: version(p) for p in ("concrete-python", "concrete-ml")},
        },
    }
    return sha256_hex(canonical_json(asked))
