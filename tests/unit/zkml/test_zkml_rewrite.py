"""Models rewritten for circuits answer as before, with fewer cells."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from privacy.errors import BackendError
from privacy.publishing import PartRequest
from privacy.zkml.choose import prepare
from privacy.zkml.field import quantize
from privacy.zkml.onnx_prep import fix_batch
from privacy.zkml.rewrite import Rewritten, rewrite
from privacy.zkml.saturate import tables_are_cut
from privacy.zkml.system import (
    CircuitChoice,
    CircuitFiles,
    Visibility,
    load_backend,
)
from tests.support import exported
from tests.support.exported import answers, operators

FEATURES = 36
LOW, HIGH = -np.ones(FEATURES), np.ones(FEATURES)
ROWS = np.random.default_rng(0).uniform(LOW, HIGH, (20, FEATURES)).astype(np.float32)
CHOICE = CircuitChoice(9, 512, 4, 1, 10, 22)


def export(path: Path, module: Any) -> None:
    exported.export(path, module, features=FEATURES)


def run(path: Path) -> Any:
    return answers(path, rows=ROWS)


def cells(path: Path, scratch: Path) -> int:
    seen = Visibility(input="private")
    return load_backend().size(path, CHOICE, seen, scratch).assignments


def image(*layers: Any) -> Any:
    return nn.Sequential(nn.Unflatten(1, (1, 6, 6)), *layers, nn.Flatten())


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(1, 4, 3),),
        (nn.Conv2d(1, 4, 3, padding=1, bias=False),),
        (nn.Conv2d(1, 4, (2, 3), stride=(2, 1), padding=(0, 2)),),
        (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 2)),
    ],
    ids=["plain", "padded, no bias", "strides", "two"],
)
def test_convolutions_become_products_that_take_fewer_cells(
    tmp_path: Path, layers: Any
) -> None:
    torch.manual_seed(0)
    path = tmp_path / "m.onnx"
    export(path, image(*layers))
    before, many = run(path), cells(path, tmp_path)
    made = rewrite(path, LOW, HIGH)
    assert "Conv" not in operators(path)
    assert np.allclose(run(path) / 2**made.output_bits, before, atol=1e-5)
    assert cells(path, tmp_path) < many


def test_dilations_which_the_engine_refuses_are_written_out(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(path, image(nn.Conv2d(1, 6, 3, dilation=2)))
    before = run(path)
    with pytest.raises(BackendError, match="dilations"):
        cells(path, tmp_path)
    rewrite(path, LOW, HIGH)
    assert np.allclose(run(path), before, atol=1e-5)
    assert cells(path, tmp_path) > 0


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 3, groups=2)),
        (nn.Conv2d(1, 4, 6),),
    ],
    ids=["groups", "one patch"],
)
def test_convolutions_that_would_not_gain_stay(tmp_path: Path, layers: Any) -> None:
    path = tmp_path / "m.onnx"
    export(path, image(*layers))
    before = run(path)
    rewrite(path, LOW, HIGH)
    assert operators(path).count("Conv") >= 1
    assert np.allclose(run(path), before, atol=1e-5)


class Steep(nn.Module):  # type: ignore[misc]
    """Ends in an activation of values far beyond what it tells apart."""

    def __init__(self, activation: Any, *, steepness: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(FEATURES, 5)
        self.activation, self.steepness = activation, steepness

    def forward(self, x: Any) -> Any:
        return self.activation(self.linear(x) * self.steepness)


@pytest.mark.parametrize(
    ("activation", "cut"),
    [(nn.Sigmoid(), "Clip"), (nn.Tanh(), "Clip"), (nn.Softmax(dim=1), "ReduceMax")],
    ids=["sigmoid", "tanh", "softmax"],
)
def test_inputs_far_beyond_an_activations_ends_are_cut(
    tmp_path: Path, activation: Any, cut: str
) -> None:
    path = tmp_path / "m.onnx"
    export(path, Steep(activation, steepness=20.0))
    before = run(path)
    rewrite(path, LOW, HIGH)
    assert cut in operators(path)
    assert 0 < np.abs(run(path) - before).max() < 0.0008


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh()])
@pytest.mark.parametrize(("width", "folded"), [(64, True), (65, False)])
def test_the_sign_of_few_values_is_taken_off_before_and_put_on_after(
    tmp_path: Path, activation: Any, width: int, *, folded: bool
) -> None:
    path = tmp_path / "m.onnx"
    layers = nn.Sequential(nn.Linear(FEATURES, width), activation)
    with torch.no_grad():
        layers[0].weight *= 40
        layers[0].bias[0], layers[0].weight[0] = 0.0, 0.0  # neither sign
    export(path, layers)
    before = run(path)
    rewrite(path, LOW, HIGH)
    assert tables_are_cut(path)
    assert ("Sign" in operators(path)) is folded
    assert np.abs(run(path) - before).max() < 0.0008
    assert np.allclose(run(path)[:, 0], before[:, 0], atol=1e-7)


def test_a_table_of_a_folded_sigmoid_holds_the_positive_half_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.onnx"
    export(path, Steep(nn.Sigmoid(), steepness=20.0))
    rewrite(path, LOW, HIGH)
    rows = quantize(np.array([LOW, HIGH]), scale_bits=8)
    choice = CircuitChoice(8, 1024, 4, 1, 1, 13)
    (tmp_path / "circuit").mkdir()
    files = CircuitFiles(tmp_path / "circuit")
    facts = load_backend().compile(
        path, rows, choice, Visibility(input="private"), files
    )
    assert facts.table_rows == 7.5 * 256 + 1 + 2 * 32


def test_inputs_that_stay_within_are_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(path, Steep(nn.Sigmoid(), steepness=1.0))
    before = operators(path)
    rewrite(path, LOW, HIGH)
    assert operators(path) == before
    assert not tables_are_cut(path)


def write(path: Path, nodes: list[Any], *, version: int = 17, **constants: Any) -> None:
    """Write a model by hand, from `x` to `output`; another domain comes first."""
    rows, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["rows", FEATURES]), ("output", ["rows", "outputs"]))
    )
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    sets = [helper.make_opsetid("ai.onnx.ml", 2), helper.make_opsetid("", version)]
    graph = helper.make_graph(nodes, "by-hand", [rows], [made], tensors)
    model = helper.make_model(graph, opset_imports=sets)
    model.ir_version = 8
    onnx.save(model, str(path))
    fix_batch(path, path)


@pytest.mark.parametrize("along", [None, 1, 2, -1])
@pytest.mark.parametrize("version", [9, 11, 12, 13, 18])
def test_a_softmax_is_cut_along_the_axes_that_its_operator_set_means(
    tmp_path: Path, version: int, along: int | None
) -> None:
    path = tmp_path / "m.onnx"
    how = {} if along is None else {"axis": along}
    write(
        path,
        [
            helper.make_node("Mul", ["x", "steep"], ["far"]),
            helper.make_node("Reshape", ["far", "image"], ["cube"]),
            helper.make_node("Softmax", ["cube"], ["shares"], **how),
            helper.make_node("Reshape", ["shares", "line"], ["output"]),
        ],
        version=version,
        steep=np.float32(20),
        image=[1, 6, 6],
        line=[1, -1],
    )
    before = run(path)
    rewrite(path, LOW, HIGH)
    assert ("ReduceMax" in operators(path)) is (version >= 11)
    assert np.abs(run(path) - before).max() < 0.0008


def test_an_operator_set_whose_clip_is_another_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    nodes = [
        helper.make_node("Mul", ["x", "steep"], ["far"]),
        helper.make_node("Sigmoid", ["far"], ["output"]),
    ]
    write(path, nodes, version=9, steep=np.float32(20))
    before = run(path)
    rewrite(path, LOW, HIGH)
    assert np.array_equal(run(path), before)


@pytest.mark.parametrize(
    ("shape", "inputs", "left"),
    [
        ((1, 1, 6, 6), ["image", "kernel", ""], False),
        ((4, 1, 3, 3), ["image", "kernel"], True),
    ],
    ids=["bias named empty", "several images"],
)
def test_odd_convolutions_keep_their_answers(
    tmp_path: Path, shape: tuple[int, ...], inputs: list[str], *, left: bool
) -> None:
    path = tmp_path / "m.onnx"
    kernel = np.random.default_rng(1).normal(size=(6, 1, 2, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["image"]),
        helper.make_node("Conv", inputs, ["made"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["made", "line"], ["output"]),
    ]
    write(path, nodes, shape=shape, line=[1, -1], kernel=kernel)
    before = run(path)
    rewrite(path, LOW, HIGH)
    assert ("Conv" in operators(path)) is left
    assert np.allclose(run(path), before, atol=1e-5)


def test_corners_are_compared_with_the_model_before_it_is_rewritten(
    monkeypatch: pytest.MonkeyPatch, linear: Any, tmp_path: Path
) -> None:
    """Or a circuit of a wrongly rewritten model would be found right."""

    def spoil(path: Path, low: Any, _high: Any) -> Rewritten:
        model = onnx.load(str(path))
        for weights in model.graph.initializer:
            kept = numpy_helper.to_array(weights)
            weights.CopyFrom(numpy_helper.from_array(2 * kept, weights.name))
        onnx.save(model, str(path))
        return Rewritten(np.ones(len(low)), np.full(len(low), 4.0))

    monkeypatch.setattr("privacy.zkml.choose.rewrite", spoil)
    request = PartRequest.from_json(linear.request(tmp_path / "out"))
    made = prepare(request, tmp_path)
    expected = linear.clear(made.corners * made.scale + made.offset)
    assert np.allclose(made.corners_clear, expected, atol=1e-4)
