"""What publishing under FHE refuses though it could be compiled."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from xgboost import XGBRegressor

from privacy.errors import BackendError
from privacy.fhe.backends.concrete_ml import _check_rounds
from privacy.fhe.publish import _check_explained


def test_a_regression_that_lost_what_it_tells_is_refused():
    clear = np.linspace(0.0, 1.0, 20)[:, None]
    _check_explained(clear + 0.05, clear)
    with pytest.raises(BackendError, match="100% of the variance"):
        _check_explained(np.full_like(clear, 0.5), clear)


def test_a_constant_regression_has_no_variance_to_lose():
    clear = np.full((5, 1), 2.0)
    _check_explained(clear + 1e-9, clear)


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
