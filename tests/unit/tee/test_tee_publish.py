"""Publishing runs the real engine and measures what an enclave will measure."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from tee_models import MODEL_SHA256, WEIGHTS, linear_model

from privacy.child import run_in_child
from privacy.errors import FormatError
from privacy.publishing import PartRequest
from privacy.tee.harden import SANDBOX
from privacy.tee.measure import measure, measure_policy

RNG = np.random.default_rng(7)


@pytest.fixture
def request_for(tmp_path):
    def make(model, *, outputs=2, task="regression"):
        held = RNG.normal(size=(300, 3)).astype(np.float32)
        np.save(tmp_path / "held.npy", held)
        np.save(tmp_path / "clear.npy", held.astype(np.float64) @ WEIGHTS)
        (tmp_path / "core.onnx").write_bytes(model)
        (tmp_path / "out").mkdir()
        return PartRequest(
            out=tmp_path / "out",
            onnx=tmp_path / "core.onnx",
            estimator=None,
            calibration=tmp_path / "held.npy",
            held=tmp_path / "held.npy",
            clear=tmp_path / "clear.npy",
            outputs=outputs,
            activation="none",
            task=task,
            options={},
        )

    return make


def publish(request, progress=None):
    return run_in_child(
        "privacy.tee.publish:handler",
        request.to_json(),
        timeout_s=60,
        progress=progress,
    )


def test_publish_measures_what_the_enclave_will_measure(request_for, start_enclave):
    request, stages = request_for(linear_model()), []
    part = publish(request, stages.append)
    assert part["available"]
    assert part["params"].keys() == {"measurements"}
    enclave = start_enclave(model_dir=request.out, model_sha256=MODEL_SHA256)
    assert enclave.info["measurements"] == part["params"]["measurements"]
    assert [p["stage"] for p in stages] == ["load", "run", "measure"]


def test_a_publisher_may_allow_a_weaker_sandbox_and_the_manifest_says_so(request_for):
    request = replace(
        request_for(linear_model()), options={"allow_weaker_sandbox": ["landlock"]}
    )
    params = publish(request)["params"]
    weaker = measure_policy({**SANDBOX, "landlock": "none"}).hex()
    usual = measure(request.out / "model.onnx").as_dict()
    assert params["measurements"] == {**usual, "rtmr0": weaker}
    assert params["allow_weaker_sandbox"] == ["landlock"]


@pytest.mark.parametrize(
    "options", [{"allow_weaker_sandbox": ["all"]}, {"alow": []}, {"salt": True}]
)
def test_publish_refuses_options_that_it_does_not_know(request_for, options):
    with pytest.raises(FormatError) as caught:
        publish(replace(request_for(linear_model()), options=options))
    assert caught.value.code == "bad-options"


def test_publish_reports_accuracy_and_cost_of_the_real_engine(request_for):
    part = publish(request_for(linear_model(), task="classification"))
    assert part["accuracy"]["rows"] == part["accuracy"]["engine_rows"] == 300
    assert part["accuracy"]["label_agreement"] == 1.0
    assert 0 < part["accuracy"]["max_error"] < 1e-5
    assert 0 < part["cost"]["latency_s"] < 0.1
    assert part["cost"]["model_bytes"] == len(linear_model())
    assert part["public"] == []


def test_publish_notices_a_model_that_computes_something_else(request_for):
    part = publish(request_for(linear_model(WEIGHTS * 2)))
    assert part["accuracy"]["max_error"] > 0.1


@pytest.mark.parametrize(
    ("model", "outputs", "reason"),
    [
        pytest.param(b"no model", 2, "cannot load", id="not ONNX"),
        pytest.param(linear_model(), 3, "gives 2 outputs", id="other width"),
        pytest.param(
            linear_model(np.full_like(WEIGHTS, np.inf)), 2, "not finite", id="infinite"
        ),
    ],
)
def test_publish_says_why_a_model_cannot_be_served(request_for, model, outputs, reason):
    request = request_for(model, outputs=outputs)
    part = publish(request)
    assert not part["available"]
    assert reason in part["reason"]
    assert list(request.out.iterdir()) == []


def test_publish_refuses_a_model_with_weights_in_other_files(
    request_for, tmp_path, monkeypatch
):
    model = onnx.load_model_from_string(linear_model())
    onnx.external_data_helper.convert_model_to_external_data(
        model, size_threshold=0, location="weights.bin"
    )
    monkeypatch.chdir(tmp_path)
    onnx.save(model, tmp_path / "split.onnx")
    part = publish(request_for((tmp_path / "split.onnx").read_bytes()))
    assert not part["available"]
