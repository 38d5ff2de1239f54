"""What publishing asks of each mode, and how close to the clear model it came.

Each mode has a module `publish` whose `handler()` serves one request in a child
process: it writes the mode's files into `out` and answers with a `PartResult`. A mode
that cannot serve the model answers `available=False` with the reason; it never fails
the publish.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from privacy import __version__
from privacy.activations import activate
from privacy.encoding import Json

TOOL = f"privacy-compute {__version__}"
"""What a manifest says made it."""
_SINGLE = float(np.finfo(np.float32).eps)
"""Of numbers in single precision less is no difference."""


@dataclass(frozen=True, slots=True)
class PartRequest:
    """What a mode needs to compile its part; every array is on standardised features.

    Attributes:
        out: Folder for the mode's files; exists and is empty.
        onnx: The core model: float32 input (rows, features), raw outputs
            (rows, outputs), standard operators only, dynamic first axis.
        estimator: The core scikit-learn or XGBoost estimator (joblib), if the model
            came from one; the publisher's own file, never a tenant's.
        calibration: `.npy`, float32, shape (rows, features).
        held: `.npy`, float32, rows the calibration does not hold.
        clear: `.npy`, float64, the clear model's raw outputs on `held`.
        outputs: Width of the raw outputs.
        activation: See `privacy.bundle.Manifest`.
        task: See `privacy.bundle.Manifest`.
        options: The publisher's choices for this mode.
        truth: `.npy`, int64, the class index of each calibration row (-1 for a label
            that is no class), if labels were given.
        cache: Folder where a mode may keep what it found out, for the next publish.
    """

    out: Path
    onnx: Path
    estimator: Path | None
    calibration: Path
    held: Path
    clear: Path
    outputs: int
    activation: str
    task: str
    options: Mapping[str, Any]
    truth: Path | None = None
    cache: Path | None = None

    def to_json(self) -> Json:
        """Return the request as a child process takes it."""
        paths = {
            k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()
        }
        return {**paths, "options": dict(self.options)}

    @classmethod
    def from_json(cls, value: Json) -> "PartRequest":
        """Return the request that `to_json` described."""
        names = ("out", "onnx", "calibration", "held", "clear")
        maybe = ("estimator", "truth", "cache")
        paths = {n: Path(value[n]) for n in names}
        perhaps = {n: Path(value[n]) if value.get(n) else None for n in maybe}
        return cls(**{**value, **paths, **perhaps})


@dataclass(frozen=True, slots=True)
class PartResult:
    """What a mode made of a model; the manifest's `ModePart` and its public files.

    Attributes:
        public: Names of files in `out` that clients may fetch.
    """

    available: bool
    reason: str = ""
    accuracy: Json = field(default_factory=dict)
    cost: Json = field(default_factory=dict)
    params: Json = field(default_factory=dict)
    public: tuple[str, ...] = ()

    def to_json(self) -> Json:
        """Return the result as a child process gives it."""
        return {**asdict(self), "public": list(self.public)}


def accuracy(
    raw: Any, clear: Any, *, activation: str, task: str, rows: int | None = None
) -> Json:
    """Return how close raw outputs are to the clear model's, after the activation.

    Args:
        raw: The mode's raw outputs, shape (rows, outputs).
        clear: The clear model's raw outputs on the same rows.
        activation: See `privacy.bundle.Manifest`.
        task: See `privacy.bundle.Manifest`.
        rows: How many rows went through the mode's real engine; all by default.

    Returns:
        `rows`, `engine_rows`, `max_error` and, for classification, `label_agreement`
        (0 to 1).
    """
    ours, theirs = activate(raw, activation), activate(clear, activation)
    out: Json = {
        "rows": len(theirs),
        "engine_rows": len(theirs) if rows is None else rows,
        "max_error": float(np.abs(ours - theirs).max()),
    }
    if task == "classification":
        same = ours.argmax(axis=1) == theirs.argmax(axis=1)
        out["label_agreement"] = float(same.mean())
    return out


def variance_lost(ours: Any, clear: Any) -> float:
    """Return the mean squared difference over the variance, of all outputs together.

    Args:
        ours: Outputs, shape (rows, outputs).
        clear: The clear model's on the same rows. If they never vary, any difference
            is all of it: 1.
    """
    error, spread = np.mean((ours - clear) ** 2), np.mean(np.var(clear, axis=0))
    return float(error / spread) if spread else float(error > 0)


def lost_by_output(ours: Any, clear: Any, *, among: Any = None) -> Any:
    """Return each output's mean squared difference over its variance, (outputs,).

    An output that never varies has none to lose: it is judged by its own square; by
    the others' variance if it is always 0, and by 1 if there is none.

    Args:
        ours: Outputs, shape (rows, outputs).
        clear: The clear model's on the same rows.
        among: Clear outputs on more rows, of which variances are taken instead.
    """
    every = clear if among is None else among
    error, spread = np.mean((ours - clear) ** 2, axis=0), np.var(every, axis=0)
    square = np.mean(every**2, axis=0)
    varies = spread > _SINGLE**2 * square
    none = square <= _SINGLE**2 * square.max()
    steady = np.where(none, spread.mean() or 1.0, square)
    return error / np.where(varies, spread, steady)
