"""Models that read files, bring code, fill memory or never end."""

import numpy as np
import onnxruntime
import pytest
from hostile_models import (
    REFUSED_AT_LOAD,
    REFUSED_AT_RUN,
    SECRET,
    never_ends,
    reads_a_file,
)
from tee_models import MODEL_SHA256, attested_session

from privacy.child import run_in_child
from privacy.errors import BackendError, LimitError
from privacy.publishing import PartRequest
from privacy.tee.host import Enclave

WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)
ROWS = [[1.0, 2.0, 3.0]]


def write(folder, model):
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    return folder


def start(model, tmp_path):
    folder = write(tmp_path / "model", model)
    return Enclave.start(folder, tmp_path / "run", model_sha256=MODEL_SHA256)


def test_such_a_model_does_read_files_where_it_is_opened_by_its_path(tmp_path):
    """What the next test shows to be impossible inside."""
    (tmp_path / SECRET).write_bytes(WEIGHTS.tobytes())
    path = write(tmp_path, reads_a_file()) / "model.onnx"
    session = onnxruntime.InferenceSession(str(path))
    (raw,) = session.run(None, {"rows": np.array(ROWS, dtype=np.float32)})
    np.testing.assert_allclose(raw, ROWS @ WEIGHTS)


@pytest.mark.parametrize("hostile", REFUSED_AT_LOAD, ids=lambda f: f.__name__)
def test_the_enclave_does_not_load_a_hostile_model(tmp_path, hostile):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SECRET).write_bytes(WEIGHTS.tobytes())  # where the enclave is
    with pytest.raises(BackendError) as caught:
        start(hostile(), tmp_path)
    assert caught.value.code == "model-not-loadable"


@pytest.mark.parametrize("hostile", REFUSED_AT_RUN, ids=lambda f: f.__name__)
def test_a_model_that_fills_memory_is_a_typed_error(tmp_path, hostile, now):
    with pytest.raises(BackendError):
        start_and_ask(hostile(), tmp_path, now)


def start_and_ask(model, tmp_path, now):
    """Stop the enclave afterwards, which must still answer then."""
    enclave = start(model, tmp_path)
    session = attested_session(enclave, tmp_path / "model", now)
    try:
        enclave.infer(session.seal(ROWS), timeout_s=20)
    finally:
        assert enclave.evidence(bytes(32))
        enclave.stop()


def test_a_model_that_never_ends_is_a_time_limit(tmp_path, now):
    enclave = start(never_ends(), tmp_path)
    session = attested_session(enclave, tmp_path / "model", now)
    with pytest.raises(LimitError) as caught:
        enclave.infer(session.seal(ROWS), timeout_s=0.5)
    assert caught.value.code == "time-limit"
    enclave.stop()
    assert not enclave.alive


@pytest.mark.parametrize(
    "hostile", [*REFUSED_AT_LOAD, *REFUSED_AT_RUN], ids=lambda f: f.__name__
)
def test_publishing_says_why_a_hostile_model_is_not_served(tmp_path, hostile):
    held = np.ones((20, 3), dtype=np.float32)
    np.save(tmp_path / "held.npy", held)
    np.save(tmp_path / "clear.npy", held @ WEIGHTS)
    (tmp_path / "core.onnx").write_bytes(hostile())
    (tmp_path / "out").mkdir()
    request = PartRequest(
        out=tmp_path / "out",
        onnx=tmp_path / "core.onnx",
        estimator=None,
        calibration=tmp_path / "held.npy",
        held=tmp_path / "held.npy",
        clear=tmp_path / "clear.npy",
        outputs=2,
        activation="none",
        task="regression",
        options={},
    )
    part = run_in_child("privacy.tee.publish:handler", request.to_json(), timeout_s=60)
    assert not part["available"]
    assert list((tmp_path / "out").iterdir()) == []
    if hostile is reads_a_file:
        assert "other files" in part["reason"]
