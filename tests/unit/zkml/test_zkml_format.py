"""What becomes of a model is counted, so that audits can tell releases apart."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from privacy.bundle import Bundle
from privacy.errors import FormatError
from privacy.zkml.params import parse_params
from privacy.zkml.rewrite import CIRCUIT_FORMAT, rewrite

LOW, HIGH = np.full(16, -1.0), np.full(16, 2.0)
WRITTEN = {
    "network": "4ea616c852723127",
    "image": "6479326d66a9e9c6",
    "sigmoid": "0a3012a3b4bfa20f",
    "trees": "cb9fd9df454dba75",
}
"""Digests of what format 1 makes of the models below."""


def _weights(*shape: int) -> Any:
    count = int(np.prod(shape))
    return (np.arange(count, dtype=np.float32) % 7 - 3).reshape(shape) / 4


def _node(kind: str, inputs: str, out: str, **how: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [out], **how)


MODELS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "network": (
        [
            _node("Gemm", "x a b", "h"),
            _node("Relu", "h", "r"),
            _node("Gemm", "r c", "y"),
        ],
        {"a": _weights(16, 5), "b": _weights(5), "c": _weights(5, 2)},
    ),
    "image": (
        [
            _node("Reshape", "x to", "i"),
            _node("Conv", "i k", "f"),
            _node("AveragePool", "f", "p", kernel_shape=[2, 2]),
            _node("Flatten", "p", "v"),
            _node("MatMul", "v w", "y"),
        ],
        {
            "to": np.array([1, 1, 4, 4]),
            "k": _weights(2, 1, 3, 3),
            "w": _weights(2, 2),
        },
    ),
    "sigmoid": (
        [
            _node("Gemm", "x a", "h"),
            _node("Sigmoid", "h", "s"),
            _node("Softmax", "s", "t"),
            _node("Gemm", "t c", "y"),
        ],
        {"a": 9 * _weights(16, 3), "c": _weights(3, 2)},
    ),
    "trees": (
        [
            _node("Gather", "x picked", "g", axis=1),
            _node("GreaterOrEqual", "g limits", "o"),
            _node("Cast", "o", "r", to=TensorProto.FLOAT),
            _node("Sub", "one r", "l"),
            _node("Concat", "l r", "e", axis=1),
            _node("MatMul", "e values", "m"),
            _node("Add", "m base", "y"),
        ],
        {
            "picked": np.array([3, 5]),
            "limits": np.array([0.5, 1.25], np.float32),
            "one": np.array([1.0], np.float32),
            "values": _weights(4, 2),
            "base": _weights(2),
        },
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_becomes_of_a_model_is_that_of_this_format(
    tmp_path: Path, name: str
) -> None:
    """Should this fail as wanted, raise CIRCUIT_FORMAT and pin the new digests."""
    nodes, weights = MODELS[name]
    path = tmp_path / "m.onnx"
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    sets = [helper.make_opsetid("", 14)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    rewrite(path, LOW, HIGH)
    made = onnx.load(str(path)).graph
    kept = [*made.node, *made.initializer]
    raw = b"".join(part.SerializeToString(deterministic=True) for part in kept)
    assert CIRCUIT_FORMAT == 1
    assert sha256(raw).hexdigest()[:16] == WRITTEN[name]


def test_a_bundle_from_before_there_were_formats_is_of_none(bundle: Bundle) -> None:
    params = dict(bundle.manifest.modes["zkml"].params)
    assert parse_params(params).circuit_format == CIRCUIT_FORMAT
    del params["circuit_format"]
    assert parse_params(params).circuit_format == 0
    with pytest.raises(FormatError):
        parse_params({**params, "circuit_format": "1"})
