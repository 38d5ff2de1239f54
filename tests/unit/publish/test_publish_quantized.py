"""Networks trained with quantization: QONNX says what their modules say."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from privacy.errors import FormatError
from privacy.publish.export import load_core
from privacy.publish.quantized import has_quantized_layers, portable, qonnx_of
from privacy.quantized import QuantizedNetwork, is_qonnx, standard_onnx
from tests.support.quantized_nets import brevitas_net, iris

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


@pytest.fixture(scope="module")
def net():
    return brevitas_net()


@pytest.fixture(scope="module")
def qonnx(net):
    return qonnx_of(net, iris()[0][:20])


def test_a_brevitas_module_is_told_from_a_plain_one(net):
    import torch

    assert has_quantized_layers(net)
    assert not has_quantized_layers(torch.nn.Linear(2, 2))


def test_the_graph_says_what_the_module_says_far_out_too(net, qonnx, tmp_path):
    import torch

    (tmp_path / "model.onnx").write_bytes(qonnx)
    core = load_core(
        tmp_path / "model.onnx", features=4, task="classification", activation=""
    )
    rows = np.concatenate([iris()[0], 100 * iris()[0]])
    expected = net(torch.tensor(rows)).detach().numpy()
    assert np.allclose(core.clear(rows), expected, atol=1e-4)
    assert core.estimator.n_features_in_ == 4
    assert not is_qonnx(core.onnx)


@pytest.mark.parametrize("domain", ["onnx.brevitas", "qonnx.custom_op.general"])
def test_both_names_for_the_layers_are_read(qonnx, domain, tmp_path):
    model = onnx.load_from_string(qonnx)
    for node in model.graph.node:
        if node.op_type == "Quant":
            node.domain = domain
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    core = load_core(tmp_path / "model.onnx", features=4, task="", activation="")
    kept = onnx.load_from_string(core.estimator.qonnx).graph.node
    assert {n.domain for n in kept if n.op_type == "Quant"} == {"onnx.brevitas"}


@pytest.mark.parametrize(
    ("signed", "narrow", "zero_point", "expected"),
    [
        (1, 0, 0.0, [-4.0, -1.0, 0.0, 0.5, 1.0, 3.5]),
        (1, 1, 0.0, [-3.5, -1.0, 0.0, 0.5, 1.0, 3.5]),
        (0, 0, 0.0, [0.0, 0.0, 0.0, 0.5, 1.0, 7.5]),
        (0, 0, 2.0, [-1.0, -1.0, 0.0, 0.5, 1.0, 6.5]),
        (0, 1, 0.0, [-4.0, -1.0, 0.0, 0.5, 1.0, 3.5]),  # as Concrete-ML reads it
    ],
)
def test_a_layer_is_spelt_out_as_it_is_defined(signed, narrow, zero_point, expected):
    graph = _one_layer(zero_point=zero_point, signed=signed, narrow=narrow)
    import onnxruntime

    session = onnxruntime.InferenceSession(standard_onnx(graph))
    rows = np.array([[-9.0, -1.1, 0.0, 0.6, 0.76, 9.0]], np.float32)
    assert session.run(None, {"x": rows})[0].tolist() == [expected]


def _one_layer(*, scale=0.5, zero_point=0.0, bits=4.0, drop=False, **said):
    """A graph of one `Quant` of four bits and steps of a half."""
    shapes = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["rows", 6])
        for n in ("x", "y")
    ]
    given = {"scale": scale, "zero_point": zero_point, "bits": bits}
    tensors = [
        numpy_helper.from_array(np.float32(v), k)
        for k, v in given.items()
        if not (drop and k == "bits")
    ]
    said = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **said}
    node = helper.make_node(
        "Quant", ["x", *given], ["y"], domain="onnx.brevitas", **said
    )
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], tensors)
    opsets = [helper.make_opsetid("", 14), helper.make_opsetid("onnx.brevitas", 1)]
    return helper.make_model(graph, opset_imports=opsets).SerializeToString()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"rounding_mode": "FLOOR"}, "rounding FLOOR"),
        ({"drop": True}, "not constant"),
        ({"bits": 0.5}, "impossible"),
        ({"bits": 64.0}, "impossible"),
        ({"scale": 0.0}, "impossible"),
    ],
)
def test_a_layer_that_means_something_else_is_refused(how, why):
    with pytest.raises(FormatError, match=why) as caught:
        standard_onnx(_one_layer(**how))
    assert caught.value.code == "unsupported-model"


def test_a_plain_graph_is_no_quantized_network(qonnx):
    with pytest.raises(FormatError, match="not QONNX"):
        QuantizedNetwork(standard_onnx(qonnx))


def test_a_module_that_does_not_take_the_rows_is_refused(net):
    with pytest.raises(FormatError, match="cannot be exported"):
        qonnx_of(net, np.zeros((2, 5), np.float32))


def test_other_models_are_saved_as_they_are():
    from sklearn.linear_model import LinearRegression

    model = LinearRegression()
    assert portable(model) is model


@pytest.mark.slow
def test_concrete_mls_own_network_says_what_its_probabilities_say():
    from benchmarks.model_families import FAMILIES
    from privacy.activations import activate
    from privacy.publish.estimators import from_estimator

    (family,) = (f for f in FAMILIES if f.name.startswith("NeuralNetClassifier"))
    model, rows = family.make()
    core = from_estimator(portable(model), rows.shape[1])
    found = activate(core.clear((rows - core.offset) / core.scale), core.activation)
    expected = model.predict_proba(rows)
    assert np.abs(found - expected).max() < 0.2  # Concrete-ML leaves biases unrounded
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95
