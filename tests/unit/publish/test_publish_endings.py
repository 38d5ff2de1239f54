"""A classifier's last softmax or sigmoid is taken off, if that changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

from privacy.activations import activate
from privacy.publish.networks import from_onnx

ROWS = np.random.default_rng(1).normal(size=(5, 3))
DENSE = """w = Constant <value = float[3,{0}] {{{1}}}> ()
 raw = MatMul(x, w)
 """


def network(path: Path, lines: str, *, outputs: int) -> bytes:
    weights = ", ".join(str(round(0.3 * i - 0.7, 2)) for i in range(3 * outputs))
    text = (
        '<ir_version: 8, opset_import: ["" : 14]>\n'
        f"g (float[rows,3] x) => (float[rows,{outputs}] y) {{\n "
        f"{DENSE.format(outputs, weights)}{lines}\n}}"
    )
    onnx.save(onnx.parser.parse_model(text), str(path))
    return path.read_bytes()


def operators(raw: bytes) -> list[str]:
    return [str(node.op_type) for node in onnx.load_from_string(raw).graph.node]


@pytest.mark.parametrize(
    ("line", "outputs", "activation"),
    [
        ("y = Softmax <axis = 1> (raw)", 4, "softmax"),
        ("y = Softmax <axis = -1> (raw)", 2, "softmax"),
        ("y = Softmax (raw)", 2, "softmax"),
        ("y = Sigmoid(raw)", 1, "sigmoid"),
        ("p = Softmax(raw)\n y = Flatten(p)", 2, "softmax"),
        ("p = Sigmoid(raw)\n q = Identity(p)\n y = Flatten(q)", 1, "sigmoid"),
    ],
)
@pytest.mark.parametrize("said", ["", "none"])
def test_a_classifiers_last_activation_is_left_to_the_client(
    tmp_path: Path, line: str, outputs: int, activation: str, said: str
) -> None:
    raw = network(tmp_path / "m.onnx", line, outputs=outputs)
    core = from_onnx(raw, 3, "classification", said)
    assert core.activation == activation
    assert not {"Softmax", "Sigmoid"} & set(operators(core.onnx))
    assert core.clear(ROWS).min() < 0
    whole = from_onnx(raw, 3, "regression", "none")
    told = activate(core.clear(ROWS), activation)[:, -outputs:]
    assert np.allclose(told, whole.clear(ROWS), atol=1e-6)


@pytest.mark.parametrize(
    ("line", "outputs", "task", "said", "kept"),
    [
        ("y = Softmax <axis = 0> (raw)", 2, "classification", "", "none"),
        ("y = Sigmoid(raw)", 3, "classification", "", "none"),
        ("p = Sigmoid(raw)\n y = Identity(p)", 3, "classification", "", "none"),
        ("y = Softmax <axis = 1> (raw)", 2, "regression", "", "none"),
        ("y = Softmax <axis = 1> (raw)", 2, "classification", "softmax", "softmax"),
        ("y = Relu(raw)", 2, "classification", "", "softmax"),
        ("y = Relu(raw)", 2, "classification", "none", "none"),
    ],
)
def test_what_is_no_such_ending_stays(
    tmp_path: Path, line: str, outputs: int, task: str, said: str, kept: str
) -> None:
    raw = network(tmp_path / "m.onnx", line, outputs=outputs)
    core: Any = from_onnx(raw, 3, task, said)
    assert core.activation == kept
    assert operators(core.onnx) == operators(raw)


def test_a_network_that_reads_no_row_is_not_looked_into(tmp_path: Path) -> None:
    line = "y = Constant <value = float[1,2] {1.0, 2.0}> ()"
    raw = network(tmp_path / "m.onnx", line, outputs=2)
    core: Any = from_onnx(raw, 3, "classification", "none")
    assert core.activation == "none"
    assert core.clear(ROWS).tolist() == [[1.0, 2.0]] * len(ROWS)
