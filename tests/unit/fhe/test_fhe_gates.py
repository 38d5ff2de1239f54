"""What publishing under FHE refuses though it could be compiled."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.tree import DecisionTreeRegressor
from xgboost import XGBRegressor

from privacy.errors import BackendError
from privacy.fhe import publish
from privacy.fhe.backends.concrete_ml import _check_rounds
from privacy.fhe.options import Options
from privacy.fhe.picks import PICKS
from privacy.fhe.publish import _check_explained
from privacy.fhe.tune.candidates import Subject, read_trees
from privacy.publishing import PartResult


def test_a_regression_that_lost_what_it_tells_is_refused():
    clear = np.linspace(0.0, 1.0, 20)[:, None]
    _check_explained(clear + 0.05, clear)
    with pytest.raises(BackendError, match="100% of the variance"):
        _check_explained(np.full_like(clear, 0.5), clear)


def test_the_output_that_lost_most_decides_whatever_the_scale_of_the_others():
    clear = np.linspace(0.0, 1.0, 20)[:, None] * [1000.0, 1.0]
    _check_explained(clear + np.array([50.0, 0.05]), clear)
    with pytest.raises(BackendError, match="output 2 of 2 has"):
        _check_explained(np.column_stack([clear[:, 0], np.full(20, 0.5)]), clear)


def test_an_output_that_never_varies_is_judged_by_its_size():
    clear = np.linspace(0.0, 1.0, 20)[:, None] * [1.0, 0.0] + np.array([0.0, 2.0])
    _check_explained(clear + np.array([0.0, 0.1]), clear)
    with pytest.raises(BackendError, match="output 2 of 2 has"):
        _check_explained(clear + np.array([0.0, 3.0]), clear)
    constant = np.full((5, 1), 2.0)
    _check_explained(constant + 1e-9, constant)
    with pytest.raises(BackendError, match="output has"):
        _check_explained(constant + 3.0, constant)


def test_an_output_that_is_always_0_is_judged_by_what_the_others_vary():
    clear = np.linspace(0.0, 1.0, 20)[:, None] * [1.0, 0.0]
    _check_explained(clear + np.array([0.0, 0.01]), clear)
    with pytest.raises(BackendError, match="output 2 of 2 has"):
        _check_explained(clear + np.array([0.0, 0.5]), clear)
    _check_explained(np.full((5, 1), 1e-9), np.zeros((5, 1)))


def test_what_is_no_class_is_refused_if_it_lost_what_it_tells(
    linear, publisher, tmp_path
):
    (tmp_path / "out").mkdir()
    other = tmp_path / "clear.npy"
    np.save(other, linear.clear[::-1])
    changes = {"task": "raw", "activation": "none", "clear": other}
    request = replace(linear.request, out=tmp_path / "out", **changes)
    answer = publisher.call(request.to_json(), timeout_s=200)
    assert not answer["available"]
    assert "of the variance" in answer["reason"]


@pytest.mark.parametrize("error", [RuntimeError("no such key"), MemoryError()])
def test_a_circuit_whose_engine_fails_leaves_the_next_to_serve(
    monkeypatch, tmp_path, linear, error
):
    def published(request, compiled, options, progress):
        if compiled == "first":
            (tmp_path / PICKS).write_bytes(b"of the first")
            raise error
        return PartResult(available=True)

    monkeypatch.setattr(publish, "_publish", published)
    request = replace(linear.request, out=tmp_path)
    subject = Subject(request, None, np.zeros((1, 1)), Options())
    ways = [lambda: "first", lambda: "second"]
    result = publish._first_that_serves(subject, ways, lambda _: None)
    assert result.available
    assert type(error).__name__ in result.params["not_fhe_native"]
    assert not list(tmp_path.iterdir())


def test_trees_that_cannot_be_read_are_refused_by_name():
    subject = Subject(None, DecisionTreeRegressor(), np.zeros((1, 1)), Options())
    with pytest.raises(BackendError, match="as an fhe-native circuit"):
        read_trees(subject)


@pytest.mark.filterwarnings("ignore")  # XGBoost's own
@pytest.mark.parametrize(
    ("options", "read"),
    [
        ({}, True),
        ({"num_parallel_tree": 2}, False),
        ({"early_stopping_rounds": 1, "learning_rate": 3.0}, False),
    ],
)
def test_concrete_ml_gets_no_trees_that_it_would_add_up_otherwise(options, read):
    rows, truth = load_diabetes(return_X_y=True)
    model = XGBRegressor(n_estimators=9, max_depth=2, **options)
    model.fit(rows[::2], truth[::2], eval_set=[(rows[1::2], truth[1::2])], verbose=0)
    if read:
        _check_rounds(model)
        return
    with pytest.raises(BackendError, match="as many rounds as were best"):
        _check_rounds(model)
