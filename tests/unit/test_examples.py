"""The example models: always the same, good enough to mean something, publishable."""

import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from privacy.errors import UnavailableError
from privacy.publish.prepare import prepare

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CHOICES = {
    "breast_cancer": {"suffix": ".joblib", "label": "diagnosis"},
    "credit": {"suffix": ".joblib", "label": "outcome"},
    "wine_net": {
        "suffix": ".pt",
        "label": "cultivar",
        "task": "classification",
        "activation": "softmax",
    },
}
LEAST_ACCURACY = {"breast_cancer": 0.95, "credit": 0.83, "wine_net": 0.95}


def _load(name):
    return _load_file(EXAMPLES / f"train_{name}.py")


def _load_file(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _told(model, table):
    if hasattr(model, "predict"):
        return model.predict(table.to_numpy())
    import torch

    with torch.no_grad():
        rows = torch.tensor(table.to_numpy(), dtype=torch.float32)
        return model(rows).argmax(dim=1).numpy()


@pytest.mark.parametrize("name", CHOICES)
def test_a_model_is_right_about_rows_it_has_not_seen(name):
    module = _load(name)
    model, table, truth = module.train()
    told = [module.CLASSES[i] for i in _told(model, table)]
    accuracy = np.mean([a == b for a, b in zip(told, truth, strict=True)])
    commonest = max(truth.count(c) for c in module.CLASSES) / len(truth)
    assert accuracy >= LEAST_ACCURACY[name]
    assert accuracy > commonest + 0.05


@pytest.mark.parametrize("name", CHOICES)
def test_training_gives_the_same_model_every_time(name):
    module = _load(name)
    (first, table, truth), (second, again, truth_again) = module.train(), module.train()
    pd.testing.assert_frame_equal(table, again)
    assert truth == truth_again
    assert np.array_equal(_told(first, table), _told(second, table))


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:no signature found:UserWarning")
def test_the_written_files_can_be_published(name, tmp_path):
    choice, module = CHOICES[name], _load(name)
    module.main(tmp_path / "in")
    (tmp_path / "out").mkdir()
    request = {
        "model": str(tmp_path / "in" / f"{name}{choice['suffix']}"),
        "data": str(tmp_path / "in" / f"{name}.csv"),
        "out": str(tmp_path / "out"),
        "label": choice["label"],
        "names": [],
        "classes": list(module.CLASSES),
        "task": choice.get("task", ""),
        "activation": choice.get("activation", ""),
    }
    schema = prepare(request, lambda _: None)
    assert schema["classes"] == list(module.CLASSES)
    assert schema["clear_accuracy"]["accuracy"] > 0.7
    assert (tmp_path / "out" / "core.onnx").stat().st_size > 0


def test_examples_do_not_wait_for_a_gateway_that_ended(tmp_path):
    local = _load_file(EXAMPLES / "local_gateway.py")
    log = tmp_path / "gateway.log"
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
        with pytest.raises(UnavailableError, match="did not become ready"):
            local.wait_until_ready("http://127.0.0.1:9", ended, log)


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (10, 10), (20, 19), (100, 95)])
def test_a_percentile_is_the_nearest_rank(count, rank):
    path = EXAMPLES.parent / "benchmarks" / "measure.py"
    timing = _load_file(path).Timing(tuple(range(1, count + 1)))
    assert timing.p95 == rank
