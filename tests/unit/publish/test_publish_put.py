"""Publishing at once, into folders, and what cannot be saved: typed, nothing lost."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import privacy.publish as module
from privacy.errors import BackendError, ConflictError, FormatError, LimitError
from privacy.modes import Mode
from privacy.publish import publish
from privacy.publishing import PartResult

ROWS = np.random.default_rng(0).normal(size=(40, 2))
SCHEMA = {
    "columns": [{"name": n, "minimum": 0.0, "maximum": 1.0} for n in "ab"],
    "outputs": 1,
    "activation": "none",
    "task": "regression",
    "classes": [],
    "estimator": False,
    "clear_accuracy": {},
}


@pytest.fixture
def compile_at_once(tmp_path):
    """Publish from two threads that both begin before either is done."""
    meet = threading.Barrier(2)

    def engine(target, _request, **_options):
        if "prepare" in target:
            meet.wait(10)
            return SCHEMA
        if "tee" in target:
            return PartResult(available=True).to_json()
        raise LimitError("too large for this mode")

    def run(version):
        def one(_):
            try:
                made = publish(
                    {}, ROWS, name="m", store=tmp_path, version=version, run=engine
                )
            except ConflictError as exc:
                return exc.code
            return made.manifest.version

        with ThreadPoolExecutor(2) as pool:
            return sorted(pool.map(one, range(2)))

    return run


def test_two_publishes_at_once_get_two_versions(compile_at_once, tmp_path):
    assert compile_at_once(None) == ["1", "2"]
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["1", "2"]


def test_one_of_two_publishes_of_one_version_is_refused(compile_at_once):
    assert compile_at_once("7") == ["7", "version-exists"]


def test_a_mode_that_fails_in_any_typed_way_fails_nothing_else(
    compile_at_once, tmp_path
):
    compile_at_once(None)
    parts = module.open_bundle(tmp_path / "m" / "1").manifest.modes
    refused = {parts[m].reason for m in (Mode.FHE, Mode.ZKML)}
    assert refused == {"too large for this mode"}
    assert parts[Mode.TEE].available


def test_a_model_that_no_mode_can_serve_is_not_published(tmp_path):
    def engine(target, _request, **_options):
        if "prepare" in target:
            return SCHEMA
        raise LimitError("too large for this mode")

    with pytest.raises(BackendError, match="fhe: too large for this mode") as caught:
        publish({}, ROWS, name="m", store=tmp_path, run=engine)
    assert caught.value.code == "no-mode-serves"
    assert not list((tmp_path / "m").iterdir())


def test_a_model_that_cannot_be_saved_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(FormatError) as caught:
        publish(lambda x: x, ROWS, name="m", store=tmp_path)
    assert caught.value.code == "unsupported-model"
    assert not list((tmp_path / "m").iterdir())
