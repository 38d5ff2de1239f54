"""What the tests of this mode share."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privacy.tee.host import Enclave
from privacy.tee.parse import REGISTERS, Measurements
from privacy.tee.simulator import SimulatedTdxAttester

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from tee_models import MODEL_SHA256, linear_model  # noqa: E402


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.onnx").write_bytes(linear_model())
    return folder


@pytest.fixture(scope="session")
def shared_enclave(model_dir, tmp_path_factory):
    """One enclave for the tests that do not harm it."""
    run_dir = tmp_path_factory.mktemp("enclave")
    enclave = Enclave.start(model_dir, run_dir, model_sha256=MODEL_SHA256)
    yield enclave
    enclave.stop()


@pytest.fixture
def start_enclave(model_dir, tmp_path):
    """Start enclaves that are ended after the test."""
    started = []

    def start(name="run", **options):
        started.append(
            Enclave.start(
                options.pop("model_dir", model_dir),
                tmp_path / name,
                model_sha256=options.pop("model_sha256", MODEL_SHA256),
                **options,
            )
        )
        return started[-1]

    yield start
    for enclave in started:
        enclave.stop()


@pytest.fixture(scope="session")
def measurements():
    return Measurements(*(bytes([i + 1]) * 48 for i in range(len(REGISTERS))))


@pytest.fixture(scope="session")
def report_data():
    return bytes(range(64))


@pytest.fixture(scope="session")
def raw_quote(measurements, report_data):
    return SimulatedTdxAttester().quote(report_data, measurements)


@pytest.fixture
def now():
    return datetime.now(UTC)
