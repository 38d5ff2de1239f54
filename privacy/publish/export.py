"""From a trained model's file to its core.

Runs in a child process: it loads the publisher's own model file, scikit-learn, PyTorch.
"""

import re
from pathlib import Path
from typing import Any

from privacy.errors import FormatError, UnavailableError
from privacy.publish.core import Core
from privacy.publish.estimators import from_estimator
from privacy.publish.networks import from_onnx, from_torchscript

_SKOPS_TYPES = re.compile(
    r"numpy\.(u?int|float)(8|16|32|64)|(sklearn\.)?_loss\.[\w.]+"
    r"|xgboost\.(core\.Booster|sklearn\.XGB(Classifier|Regressor))"
)


def load_core(path: Path, *, features: int, task: str, activation: str) -> Core:
    """Return the core of a model file: `.joblib`, `.pkl`, `.skops`, `.pt` or `.onnx`.

    A `.joblib` or `.pkl` file runs code when it is loaded: open only your own.

    Args:
        path: The model; `.pt` is TorchScript (`torch.jit.save`).
        features: Columns of the calibration data.
        task: The publisher's word for networks; empty to infer it.
        activation: Likewise.

    Raises:
        FormatError: Not such a file, or a model that cannot be expressed.
    """
    if path.suffix == ".onnx":
        return from_onnx(path.read_bytes(), features, task, activation)
    if path.suffix in {".pt", ".pth"}:
        return from_torchscript(path, features, task, activation)
    return from_estimator(_load_estimator(path), features)


def _load_estimator(path: Path) -> Any:
    if path.suffix == ".skops":
        return _load_skops(path)
    if path.suffix not in {".joblib", ".pkl"}:
        msg = (
            f"{path.name}: cannot tell what this is from {path.suffix!r}; "
            "give .joblib, .pkl, .skops, .pt (TorchScript) or .onnx"
        )
        raise FormatError(msg, code="unknown-model-format")
    import joblib

    try:
        return joblib.load(path)
    except Exception as exc:
        msg = f"{path.name} cannot be loaded: {type(exc).__name__}: {exc}"
        raise FormatError(msg, code="unloadable-model") from exc


def _load_skops(path: Path) -> Any:
    """Return a model from a file that runs no code, unless it names unknown types."""
    try:
        import skops.io
    except ImportError as exc:
        msg = "skops is not installed: pip install skops, or give a .joblib file"
        raise UnavailableError(msg, code="engine-missing") from exc
    try:
        types = skops.io.get_untrusted_types(file=path)
        unknown = [name for name in types if not _SKOPS_TYPES.fullmatch(name)]
        if not unknown:
            return skops.io.load(path, trusted=types)
    except Exception as exc:
        msg = f"{path.name} cannot be loaded: {type(exc).__name__}"
        raise FormatError(msg, code="unloadable-model") from exc
    msg = f"{path.name} holds types that could run code: {', '.join(unknown[:5])}"
    raise FormatError(msg, code="unsafe-model")
