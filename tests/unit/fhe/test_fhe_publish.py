"""Publishing: what is written, what is measured, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import BackendError, FormatError
from privacy.fhe import FheClient
from privacy.fhe.compiled import Compiled
from privacy.fhe.measure import Measured
from privacy.fhe.options import parse_options
from privacy.fhe.publish import _checked_outputs, _samples
from privacy.fhe.quantizers import quantize, raw_outputs
from privacy.fhe.runner import Runner
from privacy.fhe.samples import sample_values
from privacy.fhe.source import Source
from privacy.fhe.spec import parse_spec
from tests.support.dense_nets import trained_net


def test_a_linear_model_is_published_with_its_costs(linear):
    result = linear.result
    assert result.public == ("client.json",)
    assert result.accuracy["rows"] == len(linear.held)
    assert result.accuracy["engine_rows"] == 10
    assert result.accuracy["label_agreement"] == 1.0
    assert result.accuracy["max_error"] < 1e-3
    assert set(result.cost) == {
        "latency_s",
        "keygen_s",
        "keys_bytes",
        "input_bytes",
        "output_bytes",
    }
    assert result.cost["keys_bytes"] == 0
    assert result.params["needs_keys"] is False
    assert result.params["p_error"] == 2.0**-40
    assert result.params["n_bits"] == {"all": 16}


def test_a_tree_is_published_with_keys(tree, tree_keys):
    result = tree.result
    assert result.accuracy["engine_rows"] == 2
    assert result.accuracy["label_agreement"] > 0.95
    assert result.cost["keys_bytes"] == len(tree_keys.evaluation_keys())
    assert result.params["needs_keys"] is True
    spec = parse_spec(tree.client_json)
    assert result.params["circuit_sha256"] == spec.circuit_sha256


def test_clients_may_fetch_the_description_and_nothing_else(tree):
    public = {name for name, f in tree.bundle.manifest.files.items() if f.public}
    assert public == {"fhe/client.json"}
    assert set(tree.bundle.manifest.files) == public | {
        "fhe/circuit/sharedlib.so",
        "fhe/circuit/program_info.concrete.params.json",
        "fhe/source/circuit.mlir",
        "fhe/source/options.json",
    }


def test_measured_sizes_are_those_a_client_sees(tree, tree_keys):
    from privacy.encoding import unpack

    (frame,) = unpack(tree_keys.encrypt(tree.held[:1]), what="input")
    assert tree.result.cost["input_bytes"] == len(frame)


@pytest.fixture(scope="module")
def network(data, publish_onnx):
    """A network of 30-4-2, for which Concrete-ML quantizes after training."""
    onnx, clear = trained_net(data, 4)
    options = {"engine_rows": 1, "circuit": "concrete-ml"}
    return publish_onnx("network", onnx, clear, options=options)


@pytest.mark.slow
def test_a_network_answers_as_its_clear_model_on_nearly_all_rows(network, tmp_path):
    assert network.result.params["family"] == "network"
    assert network.result.accuracy["label_agreement"] > 0.9
    keys = FheClient(network.client_json).generate_keys()
    (tmp_path / "keys").write_bytes(keys.evaluation_keys())
    runner = Runner(network.bundle)
    sure = np.argsort(-np.abs(np.diff(network.clear, axis=1)).ravel())[:2]
    blob = keys.encrypt(network.held[sure], allow_clipped=True)
    output = runner.run(blob, tmp_path / "keys", lambda _: None).output
    labels = keys.decrypt(output, 2).argmax(axis=1)
    assert labels.tolist() == network.clear[sure].argmax(axis=1).tolist()


# Refusals


def refused(publisher, request, tmp_path, **options):
    out = tmp_path / "out"
    out.mkdir()
    request = replace(request, out=out, options={**request.options, **options})
    result = publisher.call(request.to_json(), timeout_s=120)
    assert result["available"] is False
    assert result["public"] == []
    return result["reason"]


def test_a_circuit_that_disagrees_with_the_clear_model_is_refused(
    linear, publisher, tmp_path
):
    wrong = tmp_path / "clear.npy"
    np.save(wrong, -linear.clear)
    request = replace(linear.request, clear=wrong)
    reason = refused(publisher, request, tmp_path)
    assert "only 0.0% of 143 held rows" in reason


def test_a_circuit_slower_than_allowed_is_refused(linear, publisher, tmp_path):
    reason = refused(publisher, linear.request, tmp_path, max_latency_s=1e-6)
    assert "use a smaller model" in reason


def test_keys_larger_than_allowed_are_refused(tree, publisher, tmp_path):
    reason = refused(publisher, tree.request, tmp_path, max_keys_bytes=1000)
    assert "evaluation keys take about" in reason


def test_an_operator_that_fhe_cannot_compute_is_refused(linear, publisher, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 30])
        for n in ("input", "output")
    ]
    node = helper.make_node("Det", ["input"], ["output"])
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    path = tmp_path / "core.onnx"
    onnx.save(model, str(path))
    request = replace(linear.request, estimator=None, onnx=path)
    reason = refused(publisher, request, tmp_path)
    assert "its graph holds Det, not only a chain of linear layers" in reason
    assert "it cannot be compiled for FHE" in reason


@pytest.mark.parametrize(
    "options",
    [
        {"speed": 1},
        {"p_error": "small"},
        {"p_error": 0.5},
        {"p_error": 0},
        {"n_bits": 4.5},
        {"n_bits": True},
        {"max_latency_s": -1},
        {"circuit": "other"},
        {"circuit": 1},
        {"circuit": []},
        {"splits": "shown"},
    ],
)
def test_an_unknown_or_impossible_option_is_refused(options):
    with pytest.raises(FormatError):
        parse_options(options)


# The check that our path equals the compiler's


@pytest.fixture
def agreed(linear):
    """A compilation whose own functions are ours: it agrees by construction."""
    spec = parse_spec(linear.client_json)
    held = linear.held[:6]
    integers = quantize(held, spec.quantizers)[:, :1] * 3
    compiled = Compiled(
        circuit="concrete-ml",
        family="linear",
        n_bits={},
        folder=Path(),
        program=spec.program,
        functions=(("main", 1),),
        engine_program=spec.program,
        source=Source(mlir="", options={}),
        features=30,
        quantizers=spec.quantizers,
        output=spec.output,
        theirs_quantize=lambda rows: quantize(rows, spec.quantizers),
        theirs_integers=lambda values: values[:, :1] * 3,
        theirs_outputs=lambda found: raw_outputs(found, spec.output),
        exact=True,
        uncompressed_keys_bytes=0,
    )
    return (
        compiled,
        Measured(spec=spec, integers=integers[:2], samples=integers[:0], cost={}),
        held,
    )


def test_a_circuit_that_agrees_gives_raw_outputs_on_all_held_rows(agreed):
    compiled, measured, held = agreed
    outputs, integers = _checked_outputs(compiled, measured, held, 2.0**-40)
    assert outputs.shape == integers.shape == (6, 1)


def test_sample_rows_that_a_circuit_answers_otherwise_are_not_in_the_manifest(agreed):
    compiled, measured, _ = agreed
    right = sample_values(compiled.quantizers, 3, features=30)[:, :1] * 3

    def said(samples, compiled=compiled):
        found = replace(measured, samples=samples)
        return _samples(compiled, found, measured.integers, 2.0**-40)

    assert said(right) == {"samples": {"least": right.tolist(), "most": right.tolist()}}
    wrong = right + np.eye(3, 1, dtype=np.int64)
    assert list(said(wrong)) == ["no_samples"]
    assert "cannot be compared" in said(wrong)["no_samples"]
    with pytest.raises(BackendError) as caught:  # a circuit of our own must pass
        said(wrong, replace(compiled, circuit="fhe-native"))
    assert caught.value.code == "fhe-differs"


@pytest.mark.parametrize(
    ("member", "what"),
    [
        ("theirs_quantize", "quantized inputs"),
        ("theirs_integers", "decrypted integers"),
        ("theirs_outputs", "raw outputs"),
    ],
)
def test_a_path_that_differs_in_one_unit_is_refused(agreed, member, what):
    compiled, measured, held = agreed
    honest = getattr(compiled, member)

    def differs(values):
        found = honest(values).copy()
        found[0, 0] += 1 if found.dtype == np.int64 else 1e-9
        return found

    compiled = replace(compiled, **{member: differs})
    with pytest.raises(BackendError, match=what):
        _checked_outputs(compiled, measured, held, 2.0**-40)


def test_results_are_plain_json(linear):
    assert json.loads(json.dumps(linear.result.to_json())) == linear.result.to_json()
