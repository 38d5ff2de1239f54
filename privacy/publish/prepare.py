"""First step of a publish, in a child: the core model, its data and its schema."""

from pathlib import Path
from typing import Any

import numpy as np

from privacy.activations import activate, class_count
from privacy.child import Handler, Progress
from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.publish.core import Core
from privacy.publish.data import hold_back, read_table, rounded_range
from privacy.publish.export import load_core

_TOLERANCE = 1e-3
"""Of the outputs' spread."""
_FLOAT32 = 1e-6
"""What sums in float32 may be off, of the largest output."""
_MOST = 0.9
"""Share of the rows on which a model with ties must agree with its graph."""


def handler() -> Handler:
    """Return the handler that serves one `prepare` request."""
    return prepare


def prepare(request: Json, progress: Progress) -> Json:
    """Write `core.onnx`, `estimator.joblib` and the arrays; return the schema.

    Args:
        request: `model`, `data`, `out` (paths), `label`, `names`, `task`,
            `activation`, `classes`.
        progress: Told what is going on.

    Returns:
        `columns`, `outputs`, `activation`, `task`, `classes`, `estimator` (bool) and
        `clear_accuracy`.

    Raises:
        FormatError: The model or the data cannot be used; the message says why.
    """
    progress({"stage": "read the data"})
    out = Path(request["out"])
    table = read_table(
        Path(request["data"]), label=request["label"], names=request["names"]
    )
    calibration, held = hold_back(table.rows)
    progress({"stage": "export the model to ONNX"})
    core = load_core(
        Path(request["model"]),
        features=len(table.names),
        task=request["task"],
        activation=request["activation"],
    )
    rows = (table.rows - core.offset) / core.scale
    clear = core.clear(rows[held])
    _check_export(core, rows[held], clear)
    (out / "core.onnx").write_bytes(core.onnx)
    np.save(out / "calibration.npy", rows[calibration].astype(np.float32))
    np.save(out / "held.npy", rows[held].astype(np.float32))
    np.save(out / "clear.npy", clear)
    if core.estimator is not None:
        import joblib

        joblib.dump(core.estimator, out / "estimator.joblib")
    classes = _classes(core, clear.shape[1], request["classes"])
    if table.labels is not None and classes:
        truth = [_index(core, classes, table.labels[i]) for i in calibration]
        np.save(out / "truth.npy", np.array(truth, dtype=np.int64))
    return {
        "columns": _columns(table.names, table.rows[calibration], core),
        "outputs": clear.shape[1],
        "activation": core.activation,
        "task": core.task,
        "classes": list(classes),
        "estimator": core.estimator is not None,
        "clear_accuracy": _clear_accuracy(core, clear, table.labels, held, classes),
    }


def _check_export(core: Core, rows: Any, clear: Any) -> None:
    """Refuse an ONNX export that does not compute what the model computes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        core.onnx, providers=["CPUExecutionProvider"]
    )
    try:
        ours = session.run(None, {"input": rows.astype(np.float32)})[0]
    except Exception as exc:
        msg = f"the ONNX export does not run on a batch: {type(exc).__name__}"
        raise FormatError(msg, code="unsupported-model") from exc
    spread, largest = float(np.ptp(clear)), float(np.abs(clear).max())
    error = np.abs(ours - clear).max(axis=1)
    most = _TOLERANCE * spread + _FLOAT32 * largest
    if not (error <= most).mean() >= (_MOST if core.ties else 1.0):
        msg = (
            f"the ONNX export differs from the model by {error.max():.2g}, on outputs "
            f"that differ by {spread:.2g}"
        )
        raise FormatError(msg, code="unsupported-model")


def _columns(names: tuple[str, ...], rows: Any, core: Core) -> list[Json]:
    out = []
    for i, name in enumerate(names):
        low, high = rounded_range(rows[:, i])
        offset, scale = float(core.offset[i]), float(core.scale[i])
        out.append(
            {"name": name, "minimum": low, "maximum": high}
            | {"offset": offset, "scale": scale, "type": "number"}
        )
    return out


def _classes(core: Core, outputs: int, named: list[str]) -> tuple[str, ...]:
    if core.task != "classification":
        return ()
    count = class_count(core.activation, outputs)
    if not count:
        msg = f"{outputs} outputs with activation {core.activation} are no classes"
        raise FormatError(msg, code="wrong-class-count")
    classes = tuple(named) or core.classes or tuple(str(i) for i in range(count))
    if len(classes) != count:
        msg = f"{len(classes)} class names for {count} classes"
        raise FormatError(msg, code="wrong-class-count")
    return classes


def _clear_accuracy(
    core: Core, clear: Any, labels: tuple[str, ...] | None, held: Any, classes: Any
) -> Json:
    """Return the clear model's own accuracy on held-back rows, if labels are known."""
    if labels is None or core.task != "classification":
        return {}
    truth = [_index(core, classes, labels[i]) for i in held]
    told = activate(clear, core.activation).argmax(axis=1)
    right = told == np.array(truth)
    return {"rows": len(held), "accuracy": float(np.mean(right))}


def _index(core: Core, classes: Any, label: str) -> int:
    """Return the class that a label names, by the model's names or ours; -1 if none."""
    for names in (core.classes, classes):
        if label in names:
            return int(names.index(label))
    numbers = [str(i) for i in range(len(classes))]
    return numbers.index(label) if not core.classes and label in numbers else -1
