"""Networks trained with quantization, by Brevitas or by Concrete-ML's own classes.

Neither can be saved as it is: a Brevitas module is code, and Concrete-ML's estimators
hold such modules. Their QONNX graphs can.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import FormatError
from privacy.publish.core import Expressed
from privacy.publish.networks import from_onnx
from privacy.quantized import QuantizedNetwork

_NETWORKS = frozenset({"NeuralNetClassifier", "NeuralNetRegressor"})
_OPSET = 14
_PASSES = ("eliminate_nop_pad", "fuse_pad_into_conv", "fuse_matmul_add_bias_into_gemm")
"""What Concrete-ML asks Brevitas's exporter to simplify, so that it can read it."""
_TOLERANCE = 1e-3


def has_quantized_layers(module: Any) -> bool:
    """Return whether a torch module has layers of Brevitas."""
    return any(type(m).__module__.startswith("brevitas.nn") for m in module.modules())


def qonnx_of(module: Any, rows: Any) -> bytes:
    """Return a Brevitas module as QONNX.

    Args:
        module: Trained; the last step, a softmax say, left to the client.
        rows: Some rows it takes, float32, shape (rows, features).

    Raises:
        FormatError: It does not take them, or cannot be written as QONNX.
    """
    import onnx
    import torch
    from brevitas.export.onnx.qonnx.manager import QONNXManager

    exporter = QONNXManager()
    exporter.onnx_passes += list(_PASSES)
    module.eval()
    tensor = torch.tensor(np.asarray(rows, np.float32))
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            exporter.export(
                module,
                args=tensor[:1],
                export_path=str(path),
                keep_initializers_as_inputs=False,
                opset_version=_OPSET,
            )
            model = onnx.load(str(path))
        expected = module(tensor).detach().numpy()
    except Exception as exc:
        msg = f"the quantized network cannot be exported: {type(exc).__name__}"
        raise FormatError(msg, code="unsupported-model") from exc
    weights = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    raw = bytes(model.SerializeToString())
    _check_same(raw, tensor.numpy(), expected)
    return raw


def _check_same(qonnx: bytes, rows: Any, expected: Any) -> None:
    """Refuse a graph that computes something else than its module."""
    core = from_onnx(qonnx, rows.shape[1], "", "")
    error = np.abs(core.clear(rows) - expected.reshape(len(rows), -1)).max()
    if not error <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        msg = f"the QONNX export differs from the module by {error:.2g}"
        raise FormatError(msg, code="unsupported-model")


def portable(model: Any) -> Any:
    """Return an estimator that can be saved: Concrete-ML's give up what they hold.

    Its linear models, trees and neighbours hold a scikit-learn or XGBoost estimator,
    its networks a QONNX graph. Anything else is returned as it is.
    """
    *before, (name, core) = getattr(model, "steps", [("", model)])
    kind = type(core)
    if not kind.__module__.startswith("concrete.ml."):
        return model
    if kind.__name__ in _NETWORKS:
        graph = core.onnx_model_.SerializeToString()
        made = QuantizedNetwork(graph, classes=getattr(core, "classes_", None))
    else:
        made = core.sklearn_model
    if not before:
        return made
    from sklearn.pipeline import Pipeline

    return Pipeline([*before, (name, made)])


def express_quantized(core: Any) -> Expressed | None:
    """Return a quantized network; None if it is none."""
    if not isinstance(core, QuantizedNetwork):
        return None
    graph = from_onnx(core.qonnx, core.n_features_in_, "", "")
    return Expressed(
        graph=graph.onnx,
        clear=graph.clear,
        activation="softmax" if hasattr(core, "classes_") else "none",
        estimator=graph.estimator,
    )
