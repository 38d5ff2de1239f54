"""Dense networks as circuits of our own, on the real engine."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from privacy.fhe import FheClient
from privacy.fhe.dense import read_dense
from privacy.fhe.dense_choice import shapes
from privacy.fhe.dense_plan import plan_dense
from privacy.fhe.keysets import TREES, keyset_sha256, shipped
from privacy.fhe.options import DEFAULT_P_ERROR
from privacy.fhe.runner import Runner
from privacy.fhe.spec import parse_program
from tests.support.dense_nets import trained_net


@pytest.fixture(scope="module")
def network(data, publish_onnx):
    """30-6-2 with ReLU: one sum, mirrored."""
    onnx, clear = trained_net(data, 6)
    return publish_onnx("network", onnx, clear, options={"engine_rows": 3})


def decrypted(published, rows, tmp_path):
    keys = FheClient(published.client_json).generate_keys()
    (tmp_path / "keys").write_bytes(keys.evaluation_keys())
    blob = keys.encrypt(rows, allow_clipped=True)
    runner = Runner(published.bundle)
    output = runner.run(blob, tmp_path / "keys", lambda _: None).output
    return keys.decrypt(output, len(rows))


def test_a_dense_network_answers_as_its_clear_model_from_small_keys(network, tmp_path):
    params, cost = network.result.params, network.result.cost
    assert (params["circuit"], params["family"]) == ("fhe-native", "network")
    assert params["look_ups"] == 6
    assert params["versions"].keys() == {"concrete-python"}
    assert network.result.accuracy["label_agreement"] > 0.95
    assert cost["keys_bytes"] < 80e6
    assert params["n_bits"]["table"] > 4
    assert params["keyset"] == "own"
    assert params["keyset_sha256"] not in {shipped(name).sha256 for name in TREES}
    sure = np.argsort(-np.abs(np.diff(network.clear, axis=1)).ravel())[:3]
    found = decrypted(network, network.held[sure], tmp_path)
    assert found.shape == (3, 2)
    assert found.argmax(axis=1).tolist() == network.clear[sure].argmax(axis=1).tolist()


@pytest.mark.slow
def test_a_network_of_four_bit_tables_takes_the_keys_of_trees(data, tmp_path):
    from privacy.fhe.backends.native_networks import compile_dense

    onnx, _ = trained_net(data, 6)
    (tmp_path / "net.onnx").write_bytes(onnx)
    layers = read_dense(tmp_path / "net.onnx", 30)
    shape = next(shapes("classification"))
    assert shape.table_bits == 4
    plan = plan_dense(layers, data[0].astype(float), shape, mirror=True)
    made = compile_dense(plan, p_error=DEFAULT_P_ERROR)
    assert made.details["keyset"] == TREES[0]
    keyset = parse_program(made.program)["keyset"]
    assert keyset_sha256("concrete", keyset) == shipped(TREES[0]).sha256


@pytest.mark.slow
def test_two_hidden_layers_and_three_classes_answer_as_their_clear_model(
    publisher, publish_onnx, network, tmp_path
):
    rows, truth = load_wine(return_X_y=True)
    rows = StandardScaler().fit_transform(rows).astype(np.float32)
    wine = train_test_split(rows, truth, test_size=0.4, random_state=0)
    onnx, clear = trained_net(wine, 6, 5, activation=torch.nn.Tanh, classes=3)
    published = publish_onnx("deep", onnx, clear, options={"engine_rows": 2}, data=wine)
    assert published.result.params["circuit"] == "fhe-native"
    assert published.result.params["look_ups"] == 11
    assert published.result.accuracy["label_agreement"] > 0.95
    sure = np.argsort(-np.ptp(clear, axis=1))[:2]
    found = decrypted(published, published.held[sure], tmp_path)
    assert found.argmax(axis=1).tolist() == clear[sure].argmax(axis=1).tolist()


def test_what_is_no_chain_of_layers_says_so_if_only_our_circuits_are_wanted(
    linear, publisher, tmp_path
):
    (tmp_path / "out").mkdir()
    net = torch.nn.Sequential(torch.nn.Linear(30, 2), torch.nn.Softmax(dim=1))
    path = tmp_path / "core.onnx"
    torch.onnx.export(net, torch.zeros(1, 30), str(path), opset_version=14)
    request = replace(
        linear.request,
        out=tmp_path / "out",
        estimator=None,
        onnx=path,
        options={"circuit": "fhe-native"},
    )
    result = publisher.call(request.to_json(), timeout_s=120)
    assert result["available"] is False
    assert "its graph holds Softmax" in result["reason"]
