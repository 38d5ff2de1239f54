"""Dense networks, read from their ONNX graph: linear layers with activations between.

Scalings and additions of constants are folded into the layers. What is not such a
chain (convolutions, attention, softmax inside) is refused, with the operator's name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats

Activation = Callable[[Floats], Floats]
_WAYS = 2


def _clip(x: Floats, limit: float = 700.0) -> Floats:
    found: Floats = np.clip(x, -limit, limit)
    return found


_ACTIVATIONS: Mapping[str, Callable[[Floats, Mapping[str, float]], Floats]] = {
    "Relu": lambda x, _: np.maximum(x, 0.0),
    "Sigmoid": lambda x, _: 1.0 / (1.0 + np.exp(-_clip(x))),
    "Tanh": lambda x, _: np.tanh(x),
    "LeakyRelu": lambda x, a: np.where(x > 0, x, a.get("alpha", 0.01) * x),
    "Elu": lambda x, a: np.where(
        x > 0, x, a.get("alpha", 1.0) * np.expm1(np.minimum(x, 0.0))
    ),
    "Softplus": lambda x, _: np.logaddexp(x, 0.0),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """`activation(x @ weights + bias)`; the last layer of a network has none.

    Attributes:
        weights: Shape (inputs, outputs).
        bias: Shape (outputs,).
    """

    weights: Floats
    bias: Floats
    activation: Activation | None


def forward(layers: Sequence[Layer], rows: Floats) -> Floats:
    """Return the network's raw outputs, (rows, outputs)."""
    for layer in layers:
        rows = rows @ layer.weights + layer.bias
        rows = layer.activation(rows) if layer.activation else rows
    return rows


def read_dense(path: Path, features: int) -> tuple[Layer, ...]:
    """Return the layers of the network in an ONNX file.

    Args:
        path: The core model; see `privacy.publishing.PartRequest.onnx`.
        features: Width of an input row.

    Raises:
        BackendError: It is not a chain of linear layers and known activations.
    """
    import onnx

    graph = onnx.load(str(path)).graph
    known = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    reader = _Reader(features)
    current = graph.input[0].name
    for node in graph.node:
        named = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            known[node.output[0]] = onnx.numpy_helper.to_array(named["value"])
            continue
        if current not in node.input:
            raise _refused(node.op_type)
        at = list(node.input).index(current)
        others = [known.get(n) for i, n in enumerate(node.input) if i != at]
        if any(other is None for other in others):
            raise _refused(node.op_type)
        reader.take(node.op_type, named, others, at)
        current = node.output[0]
    if current != graph.output[0].name:
        raise _refused("a branch")
    return reader.finish()


def _refused(what: str) -> BackendError:
    msg = (
        f"its graph holds {what}, not only a chain of linear layers and "
        f"{', '.join(_ACTIVATIONS)}"
    )
    return BackendError(msg, code="fhe-not-dense")


class _Reader:
    """Composes linear steps until an activation ends a layer."""

    def __init__(self, features: int) -> None:
        self._layers: list[Layer] = []
        self._weights: Floats = np.eye(features)
        self._bias: Floats = np.zeros(features)

    def take(
        self, kind: str, named: Mapping[str, Any], others: list[Any], at: int
    ) -> None:
        """Add one node; `others` are its constant inputs, `at` the variable's place."""
        constants = [np.asarray(o, dtype=np.float64) for o in others]
        flat = kind == "Flatten" and named.get("axis", 1) == 1
        if flat or kind in {"Identity", "Dropout"}:
            return
        if kind in _ACTIVATIONS:
            self._activate(kind, named)
        elif kind in {"Gemm", "MatMul"} and at == 0 and constants[0].ndim == _WAYS:
            self._multiply(named, *constants)
        elif kind in {"Add", "Sub"}:
            if kind == "Sub" and at == 1:  # constant - x
                self._scale(np.array(-1.0))
            self._plus(-constants[0] if kind == "Sub" and at == 0 else constants[0])
        elif kind == "Mul" or (kind == "Div" and at == 0):
            self._scale(constants[0] if kind == "Mul" else 1.0 / constants[0])
        else:
            raise _refused(kind)

    def finish(self) -> tuple[Layer, ...]:
        """Return the layers; the last is linear."""
        return (*self._layers, Layer(self._weights, self._bias, None))

    def _multiply(
        self, named: Mapping[str, Any], right: Floats, bias: Floats | None = None
    ) -> None:
        """Add a Gemm's or a MatMul's product; only the former has attributes."""
        if named.get("transA", 0):
            raise _refused("a transposed input")
        right = named.get("alpha", 1.0) * (right.T if named.get("transB", 0) else right)
        self._weights, self._bias = self._weights @ right, self._bias @ right
        if bias is not None:
            self._plus(named.get("beta", 1.0) * bias)

    def _scale(self, factor: Floats) -> None:
        wide = self._row(factor)
        self._weights, self._bias = self._weights * wide, self._bias * wide

    def _plus(self, term: Floats) -> None:
        self._bias = self._bias + self._row(term)

    def _row(self, value: Floats) -> Floats:
        """Return a constant that is added to or multiplied with every row alike."""
        if value.size not in {1, len(self._bias)}:
            raise _refused("a constant of another width")
        flat: Floats = np.broadcast_to(value.ravel(), self._bias.shape)
        return flat

    def _activate(self, kind: str, named: Mapping[str, Any]) -> None:
        apply = _ACTIVATIONS[kind]
        layer = Layer(self._weights, self._bias, lambda x: apply(x, named))
        self._layers.append(layer)
        self._weights = np.eye(len(self._bias))
        self._bias = np.zeros(len(self._bias))
