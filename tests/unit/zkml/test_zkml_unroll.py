"""Recurrent layers written out give the numbers that they gave as layers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from privacy.zkml.choose import run_onnx
from privacy.zkml.unroll import unroll

STEPS, WIDTH, HIDDEN = 4, 3, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(6, STEPS * WIDTH)).round(2)


def network(
    path: Path, kind: str, outputs: str, *, bias: bool = True, **how: Any
) -> Path:
    """Write a model whose answer is all, or the last, of a layer's states."""
    gates = GATES[kind] * HIDDEN
    shapes = {"w": (1, gates, WIDTH), "r": (1, gates, HIDDEN), "b": (1, 2 * gates)}
    shapes |= {"h0": (1, 1, HIDDEN), "c0": (1, 1, HIDDEN)}
    constants = {n: RNG.normal(size=s).astype("f") / 2 for n, s in shapes.items()}
    constants |= {"in": np.array([STEPS, 1, WIDTH]), "flat": np.array([1, -1])}
    given = ["x3", "w", "r", "b" if bias else "", "", "h0" if bias else ""]
    given += ["c0"] if kind == "LSTM" and bias else []
    places = {"all": ["seen"], "last": ["", "seen"], "cell": ["", "", "seen"]}
    nodes = [
        helper.make_node("Reshape", ["x", "in"], ["x3"]),
        helper.make_node(kind, given, places[outputs], hidden_size=HIDDEN, **how),
        helper.make_node("Reshape", ["seen", "flat"], ["y"]),
    ]
    width = HIDDEN * (STEPS if outputs == "all" else 1)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, STEPS * WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 14)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def kinds(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path)).graph.node}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "outputs", "how"),
    [
        ("RNN", "all", {}),
        ("RNN", "last", {"direction": "forward"}),
        ("LSTM", "all", {}),
        ("LSTM", "last", {}),
        ("LSTM", "cell", {}),
        ("GRU", "last", {"linear_before_reset": 1}),
        ("GRU", "all", {"linear_before_reset": 0}),
    ],
)
def test_a_layer_written_out_gives_the_same(
    tmp_path: Path, kind: str, outputs: str, how: Any, *, bias: bool
) -> None:
    path = network(tmp_path / "m.onnx", kind, outputs, bias=bias, **how)
    before = run_onnx(path, ROWS)
    unroll(path)
    assert kind not in kinds(path)
    onnx.checker.check_model(onnx.load(str(path)))
    assert np.allclose(run_onnx(path, ROWS), before, atol=1e-6)
    assert np.abs(before).max() > 0.1


@pytest.mark.parametrize(
    "how",
    [
        {"direction": "reverse"},
        {"clip": 1.0},
        {"activations": ["Relu"]},
        {"activation_alpha": [1.0]},
    ],
)
def test_what_cannot_be_written_out_stays(tmp_path: Path, how: Any) -> None:
    path = network(tmp_path / "m.onnx", "RNN", "last", **how)
    before = path.read_bytes()
    unroll(path)
    assert path.read_bytes() == before


def test_a_state_that_the_input_decides_is_no_constant(tmp_path: Path) -> None:
    """Of rows of zeros and of 0.5, it is the same."""
    path = network(tmp_path / "m.onnx", "RNN", "last")
    model = onnx.load(str(path))
    (layer,) = (n for n in model.graph.node if n.op_type == "RNN")
    layer.input[5] = "moved"
    constants = {"few": np.arange(HIDDEN), "as_h": np.array([1, 1, HIDDEN])}
    model.graph.initializer.extend(
        numpy_helper.from_array(v, n) for n, v in constants.items()
    )
    for node in (
        helper.make_node("Floor", ["picked"], ["moved"]),
        helper.make_node("Reshape", ["some", "as_h"], ["picked"]),
        helper.make_node("Gather", ["x", "few"], ["some"], axis=1),
    ):
        model.graph.node.insert(0, node)
    onnx.save(model, str(path))
    before = run_onnx(path, ROWS)
    unroll(path)
    assert "RNN" in kinds(path)
    assert np.array_equal(run_onnx(path, ROWS), before)


def test_a_model_without_such_layers_stays_as_it_is(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx", "RNN", "last")
    unroll(path)
    once = path.read_bytes()
    unroll(path)
    assert path.read_bytes() == once
