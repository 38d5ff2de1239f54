"""Leaves moved to save look-ups: few rows notice, and no sum grows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor

from privacy.fhe.binning import bin_trees, owners, quantile_edges
from privacy.fhe.plan import count_look_ups
from privacy.fhe.rounding import round_leaves, walk_sums
from privacy.fhe.thermometer import thermometer
from privacy.fhe.thrift import thrifty
from privacy.trees import ensemble_of
from tests.unit.fhe.test_fhe_blocks import INPUTS, OWNER, full, trees


@pytest.fixture(scope="module")
def forest():
    """Trees in whole steps, the bits of their rows, and whose bits they are."""
    rows, truth = load_diabetes(return_X_y=True)
    model = RandomForestRegressor(3, max_depth=4, random_state=0).fit(rows, truth)
    edges = quantile_edges(rows, 16)
    bits = thermometer(rows, edges)
    found = bin_trees(ensemble_of(model), edges, rows)
    return round_leaves(found, bits, 4).trees, bits, owners(edges)


def test_a_forest_takes_fewer_look_ups_and_few_rows_notice(forest):
    whole, bits, owner = forest
    moved = thrifty(whole, bits, owner, 16)
    before, after = (
        sum(count_look_ups(t, owner, 16) for t in f) for f in (whole, moved)
    )
    assert after < before
    off = np.abs(walk_sums(moved, bits) - walk_sums(whole, bits))
    assert 0 < (off > 0).mean() <= 0.03 * 2 * len(whole)
    assert off.max() <= 2 * len(whole)


@settings(deadline=None, max_examples=10)
@given(st.lists(trees(depth=3), min_size=1, max_size=3), st.integers(0, 50))
def test_no_sum_grows_on_any_input(forest, rows):
    whole = round_leaves(forest, INPUTS[: rows + 1], 5).trees
    moved = thrifty(whole, INPUTS[: rows + 1], OWNER, 16)
    assert walk_sums(moved, INPUTS).min() >= 0
    assert walk_sums(moved, INPUTS).max() < 2**5


def test_trees_too_deep_for_the_tables_stay_as_they_are():
    deep = full(4)
    assert thrifty([deep], INPUTS, range(31), 2) == (deep,)
