"""Estimators of scikit-learn, XGBoost and Concrete-ML, scalers in front included."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from privacy.errors import FormatError
from privacy.publish.core import Core, Expressed, to_onnx, unsupported
from privacy.publish.kernels import express_kernel_machine
from privacy.publish.linear import express_linear
from privacy.publish.neighbours import express_neighbours
from privacy.publish.perceptrons import express_perceptron
from privacy.publish.quantized import express_quantized
from privacy.publish.trees import express_trees

_WAYS: Sequence[Callable[[Any], Expressed | None]] = (
    express_trees,
    express_linear,
    express_kernel_machine,
    express_perceptron,
    express_neighbours,
    express_quantized,
)
"""Each returns None for an estimator of another family."""


def from_estimator(model: Any, features: int) -> Core:
    """Return the core of a fitted estimator, or of a pipeline of scalers and one.

    Raises:
        FormatError: It cannot be expressed; the message says why.
    """
    core, offset, scale = _split_scalers(model, features)
    wanted = getattr(core, "n_features_in_", features)
    if wanted != features:
        msg = f"the model takes {wanted} features, the calibration data has {features}"
        raise FormatError(msg, code="wrong-feature-count")
    found = next((f for way in _WAYS if (f := way(core)) is not None), None)
    if found is None:
        msg = "publish a model of docs/models.md, TorchScript (.pt) or ONNX (.onnx)"
        raise unsupported(type(core).__name__, msg)
    is_classifier = hasattr(core, "classes_")
    graph = found.graph
    return Core(
        onnx=graph if isinstance(graph, bytes) else to_onnx(graph, features),
        clear=found.clear,
        offset=offset,
        scale=scale,
        activation=found.activation,
        task="classification" if is_classifier else "regression",
        classes=tuple(str(c) for c in core.classes_) if is_classifier else (),
        estimator=found.estimator,
        ties=found.ties,
    )


def _split_scalers(model: Any, features: int) -> tuple[Any, Any, Any]:
    """Return the last step of a pipeline and the scaling the steps before it do."""
    offset, scale = np.zeros(features), np.ones(features)
    steps = [step for _, step in getattr(model, "steps", [("", model)])]
    for step in steps[:-1]:
        if step is None or step == "passthrough":
            continue
        name = type(step).__name__
        ones = np.ones(features)
        if name in {"StandardScaler", "RobustScaler"}:
            center = step.mean_ if name == "StandardScaler" else step.center_
            mine, factor = center, step.scale_
        elif name == "MinMaxScaler" and not step.clip:
            mine, factor = -step.min_ / step.scale_, 1.0 / step.scale_
        elif name == "MaxAbsScaler":
            mine, factor = None, step.scale_
        else:
            msg = (
                f"pipeline step {name} is not a per-feature scaling: apply it before "
                "publishing, or publish the model as ONNX"
            )
            raise FormatError(msg, code="unsupported-step")
        # (((x - offset) / scale) - mine) / factor, as one step
        offset = offset + scale * (0 * ones if mine is None else mine)
        scale = scale * (ones if factor is None else factor)
    return steps[-1], offset, scale
