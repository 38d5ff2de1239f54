"""A GPU is used where it is asked for and can be had, and never by surprise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from concrete import compiler
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from privacy.errors import FormatError, UnavailableError
from privacy.fhe import FheClient
from privacy.fhe.backends.device import uses_gpu
from privacy.fhe.compiled import Compiled
from privacy.fhe.machine import check_machine, machine_params
from privacy.fhe.measure import measure
from privacy.fhe.options import Options, parse_options
from privacy.fhe.publish import publish_part
from privacy.fhe.runner import Runner
from privacy.fhe.source import Source, build, read_source
from privacy.fhe.spec import parse_spec
from privacy.fhe.tune.candidates import Subject, kinds

HERE = compiler.check_gpu_enabled() and compiler.check_gpu_available()
without_gpu = pytest.mark.skipif(HERE, reason="Concrete can use a GPU here")
GPU = Options(device="cuda")


def test_the_cpu_is_the_default_and_asks_for_nothing():
    assert parse_options({}).device == "cpu"
    assert not uses_gpu("cpu")


def test_auto_takes_a_gpu_where_there_is_one():
    assert uses_gpu("auto") == HERE


@without_gpu
def test_a_gpu_that_is_not_there_is_refused_with_what_to_do():
    with pytest.raises(UnavailableError, match="or choose device cpu") as caught:
        uses_gpu("cuda")
    assert caught.value.code == "fhe-no-gpu"


def test_another_device_is_refused():
    with pytest.raises(FormatError, match="expected cpu or cuda or auto"):
        parse_options({"device": "tpu"})


@without_gpu
def test_a_circuit_for_a_gpu_is_refused_where_there_is_none(linear):
    check_machine({**machine_params(), "device": "cpu"})
    manifest = linear.bundle.manifest
    part = manifest.modes["fhe"]
    part = replace(part, params={**part.params, "device": "cuda"})
    bundle = replace(linear.bundle, manifest=replace(manifest, modes={"fhe": part}))
    with pytest.raises(UnavailableError, match="compiled for a GPU") as caught:
        Runner(bundle)
    assert caught.value.code == "fhe-no-gpu"


@without_gpu
def test_a_circuit_for_a_gpu_is_not_built_anew_for_another_device(linear, tmp_path):
    source = read_source(linear.bundle.root / "fhe" / "source")
    program = parse_spec(linear.client_json).program
    with pytest.raises(UnavailableError) as caught:
        build(source, program, tmp_path, device="cuda")
    assert caught.value.code == "fhe-no-gpu"


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 1), ("cpu", None), ("", None)])
def test_what_a_job_costs_says_whether_it_takes_a_gpu(linear, device, gpus):
    spec = parse_spec(linear.client_json)
    made = Compiled(
        circuit=spec.circuit,
        family="linear",
        n_bits={},
        folder=Path(),
        program=spec.program,
        engine_program=spec.program,
        functions=tuple((b.function, b.rows) for b in spec.batches),
        features=spec.features,
        quantizers=spec.quantizers,
        output=spec.output,
        theirs_quantize=lambda rows: rows,
        theirs_integers=lambda values: values,
        theirs_outputs=lambda found: found,
        exact=True,
        uncompressed_keys_bytes=0,
        source=Source(mlir="", options={}),
        details={"device": device} if device else {},
    )
    circuit = linear.bundle.root / "fhe" / "circuit"
    few = Options(engine_rows=1)
    measured = measure(made, circuit, linear.held[:1], few, lambda _: None)
    assert measured.cost.get("gpus") == gpus
    assert "gpus" not in linear.result.cost


@pytest.mark.parametrize(
    ("estimator", "options", "why"),
    [
        (None, GPU, "an ONNX network is no ensemble of trees"),
        (LogisticRegression(), GPU, "LogisticRegression is no ensemble of trees"),
        (type("QuantizedNetwork", (), {})(), GPU, "QuantizedNetwork is no ensemble"),
        ("forest", replace(GPU, circuit="concrete-ml"), "circuit is concrete-ml"),
    ],
)
def test_a_gpu_is_refused_for_circuits_that_use_none(forest, estimator, options, why):
    if estimator == "forest":
        estimator = RandomForestClassifier(1, max_depth=1).fit([[0], [1]], [0, 1])
    subject = Subject(forest.request, estimator, np.zeros((1, 30)), options)
    with pytest.raises(FormatError, match=why) as caught:
        kinds(subject)
    assert caught.value.code == "bad-option"
    assert "leave device out" in caught.value.message
    auto = replace(options, device="auto")
    assert kinds(replace(subject, options=auto))


@without_gpu
def test_no_forest_is_published_for_a_gpu_that_is_not_there(forest):
    request = replace(forest.request, options={"device": "cuda"})
    with pytest.raises(UnavailableError) as caught:
        publish_part(request, lambda _: None)
    assert caught.value.code == "fhe-no-gpu"


@pytest.mark.skipif(not HERE, reason="no GPU, or a build of Concrete without it")
def test_a_forest_is_published_for_a_gpu_and_runs_on_it(data, publish_trees, tmp_path):
    made = publish_trees(
        "gpu",
        data,
        RandomForestClassifier(2, max_depth=2, random_state=0),
        lambda m, x: m.predict_proba(x),
        activation="none",
        task="classification",
        device="cuda",
        engine_rows=1,
    )
    assert made.result.params["device"] == "cuda"
    assert made.result.cost["gpus"] == 1
    keys = FheClient(made.client_json).generate_keys()
    (tmp_path / "keys").write_bytes(keys.evaluation_keys())
    blob = keys.encrypt(made.held[:2])
    output = Runner(made.bundle).run(blob, tmp_path / "keys", lambda _: None).output
    labels = keys.decrypt(output, 2).argmax(axis=1)
    assert labels.tolist() == made.clear[:2].argmax(axis=1).tolist()
    fhe = made.bundle.root / "fhe"
    program = (fhe / "circuit" / "program_info.concrete.params.json").read_text()
    build(read_source(fhe / "source"), program, tmp_path, device="cuda")
