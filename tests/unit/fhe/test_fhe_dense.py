"""Dense networks: reading them, planning them, and what rounding can do."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from privacy.errors import BackendError
from privacy.fhe.dense import Layer, forward, read_dense
from privacy.fhe.dense_choice import choose_dense, fit_dense, mirrors
from privacy.fhe.dense_plan import Shape, between, evaluate, plan_dense
from privacy.fhe.quantizers import quantize, raw_outputs
from privacy.fhe.yardstick import Yardstick

SHAPE = Shape(
    input_bits=5,
    sum_bits=12,
    table_bits=5,
    value_bits=4,
    weight_bits=2,
    clip=0.98,
)


def relu(x):
    return np.maximum(x, 0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def network(rng, *widths):
    pairs = list(pairwise(widths))
    return tuple(
        Layer(
            rng.normal(size=pair) / np.sqrt(pair[0]),
            rng.normal(size=pair[1]) * 0.1,
            relu if i < len(pairs) - 1 else None,
        )
        for i, pair in enumerate(pairs)
    )


def saved(tmp_path, nodes, constants, features=3, outputs=2):
    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", w])
        for n, w in (("input", features), ("output", outputs))
    ]
    named = [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], named)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    path = tmp_path / "core.onnx"
    onnx.save(model, str(path))
    return path


def node(kind, *inputs, out, **attributes):
    return helper.make_node(kind, list(inputs), [out], **attributes)


def test_scalings_are_folded_and_every_activation_is_the_runtimes(tmp_path, rng):
    import onnxruntime

    kinds = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus")
    nodes = [
        node("Sub", "input", "mean", out="a"),
        node("Div", "a", "deviation", out="b"),
        node("Gemm", "b", "w", "c", out="h0", transB=1, alpha=0.5, beta=2.0),
    ]
    for i, kind in enumerate(kinds):
        nodes += [
            node(kind, f"h{i}", out=f"t{i}"),
            node("MatMul", f"t{i}", "v", out=f"m{i}"),
            node("Add", "c", f"m{i}", out=f"h{i + 1}"),
        ]
    nodes += [node("Mul", "h6", "two", out="n"), node("Sub", "one", "n", out="output")]
    constants = {
        "mean": rng.normal(size=3),
        "deviation": [2.0, 0.5, 3.0],
        "w": rng.normal(size=(2, 3)),
        "v": rng.normal(size=(2, 2)),
        "c": rng.normal(size=2),
        "two": 2.0,
        "one": [1.0, 1.0],
    }
    path = saved(tmp_path, nodes, constants)
    rows = rng.normal(size=(7, 3)) * 3
    session = onnxruntime.InferenceSession(str(path))
    (theirs,) = session.run(None, {"input": rows.astype(np.float32)})
    ours = forward(read_dense(path, 3), rows)
    assert len(read_dense(path, 3)) == len(kinds) + 1
    assert np.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Softmax", "input", out="output")],
        [node("Relu", "input", out="a"), node("Add", "a", "input", out="output")],
        [node("Relu", "input", out="a"), node("Relu", "input", out="output")],
        [node("Div", "two", "input", out="output")],
        [node("MatMul", "square", "input", out="output")],
        [node("Mul", "input", "tall", out="output")],
    ],
)
def test_a_graph_that_is_no_chain_of_layers_is_refused(tmp_path, nodes):
    constants = {"two": 2.0, "square": np.eye(3), "tall": np.ones((5, 1))}
    path = saved(tmp_path, nodes, constants, outputs=3)
    with pytest.raises(BackendError) as refused:
        read_dense(path, 3)
    assert refused.value.code == "fhe-not-dense"


def test_no_input_whatever_overflows_a_sum_or_its_table(rng):
    layers = network(rng, 6, 5, 4, 3)
    rows = rng.normal(size=(80, 6))
    plan = plan_dense(layers, rows, SHAPE, mirror=False)
    top = np.array([q.high for q in plan.quantizers])
    for layer in plan.layers:
        up, down = np.maximum(layer.weights, 0), np.minimum(layer.weights, 0)
        least, most = (
            top @ down + layer.constant,
            top @ up + layer.constant,
        )
        size = 1 << layer.sum_bits
        assert least.min() >= 0
        assert most.max() < size
        if layer.tables is not None:
            assert (most.max() + layer.unit // 2) // layer.unit < layer.tables.shape[1]
            top = layer.tables.max(axis=1)


def test_more_bits_come_closer_to_the_clear_network(rng):
    layers = network(rng, 6, 5, 2)
    rows = rng.normal(size=(200, 6))
    fine = replace(SHAPE, sum_bits=22, table_bits=11, weight_bits=9, clip=1.0)
    fine = replace(fine, input_bits=9, value_bits=9)
    errors = [
        np.abs(fit_dense(layers, shape, mirror=False)(rows)(rows) - clear).max()
        for clear in [forward(layers, rows)]
        for shape in (replace(SHAPE, table_bits=3), SHAPE, fine)
    ]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.03


def test_mirrored_outputs_differ_as_the_networks_two_do(rng):
    layers = network(rng, 6, 5, 2)
    rows = rng.normal(size=(200, 6))
    assert mirrors(layers, "softmax")
    assert not mirrors(layers, "margin")
    fine = replace(SHAPE, input_bits=8, sum_bits=20, table_bits=10, value_bits=9)
    plan = plan_dense(layers, rows, fine, mirror=True)
    assert plan.layers[-1].weights.shape == (5, 1)
    ours = raw_outputs(evaluate(plan, quantize(rows, plan.quantizers)), plan.output)
    clear = forward(layers, rows)
    assert np.array_equal(ours[:, 0], -ours[:, 1])
    assert np.abs(np.diff(ours) - np.diff(clear)).mean() < 0.05


def test_between_holds_every_outcome_of_rounding_by_one_and_no_more_than_it_must(rng):
    plan = plan_dense(network(rng, 4, 3, 2), rng.normal(size=(60, 4)), SHAPE, mirror=0)
    values = rng.integers(0, 32, (20, 4))
    least, most = between(plan, values)
    exact = evaluate(plan, values)
    assert (least <= exact).all()
    assert (exact <= most).all()
    first, last = plan.layers
    seen_least, seen_most = exact.copy(), exact.copy()
    sums = first.sums(values)
    for way in np.ndindex(2, 2, 2):
        at = np.where(way, -(-sums // first.unit), sums // first.unit)
        out = last.sums(first.tables[np.arange(3), np.minimum(at, 31)])
        assert ((least <= out) & (out <= most)).all()
        seen_least, seen_most = np.minimum(seen_least, out), np.maximum(seen_most, out)
    assert np.array_equal(seen_least, least)
    assert np.array_equal(seen_most, most)


def test_a_network_that_ignores_its_input_is_refused(rng):
    layers = network(rng, 4, 3, 2)
    deaf = (replace(layers[0], weights=np.zeros((4, 3))), layers[1])
    with pytest.raises(BackendError, match="does not depend on its input"):
        plan_dense(deaf, rng.normal(size=(60, 4)), SHAPE, mirror=False)


def test_a_linear_model_is_no_dense_network(rng):
    with pytest.raises(BackendError, match="it is linear"):
        plan_dense(network(rng, 4, 2), rng.normal(size=(60, 4)), SHAPE, mirror=False)


def test_the_cheapest_precision_within_the_loss_is_chosen(rng):
    layers = network(rng, 6, 8, 3)
    rows = rng.normal(size=(400, 6))
    yardstick = Yardstick(
        rows, forward(layers, rows), None, "softmax", "classification"
    )
    bits = [
        choose_dense(layers, yardstick, max_loss=m).shape.table_bits
        for m in (30.0, 0.0)
    ]
    assert bits == [4, 6]
