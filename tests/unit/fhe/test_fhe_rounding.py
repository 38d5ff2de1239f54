"""Leaves in whole steps: no sum overflows, and sums come close."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor

from privacy.fhe.binning import BitNode, bin_trees, leaves, quantile_edges, walk
from privacy.fhe.rounding import round_leaves, walk_sums
from privacy.fhe.thermometer import thermometer
from privacy.trees import ensemble_of
from tests.unit.fhe.test_fhe_blocks import INPUTS, trees


@settings(deadline=None, max_examples=40)
@given(
    st.lists(trees(outputs=2, depth=4), min_size=1, max_size=9),
    st.integers(3, 8),
    st.integers(0, 50),
)
def test_no_input_overflows_a_sum_whatever_rows_were_there(forest, sum_bits, rows):
    whole = round_leaves(forest, INPUTS[: rows + 1], sum_bits)
    sums = walk_sums(whole.trees, INPUTS)
    assert sums.min() >= 0
    assert sums.max() < 2**sum_bits
    for tree in whole.trees:
        assert np.array(list(leaves(tree))).min(axis=0).tolist() == [0, 0]


@pytest.mark.parametrize("count", [1, 200, 300, 1000])
def test_however_many_trees_share_a_sum_it_follows_theirs(count):
    """Of more trees than steps, those that keep none are made good by others."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (400, 10))
    found = [
        BitNode(i % 10, leaf(1.0), leaf(1.0 + rng.uniform(0.9, 1.1)))
        for i in range(count)
    ]
    whole = round_leaves(found, bits[:200], 8)
    exact = sum(walk(tree, bits[200:]) for tree in found)
    sums = walk_sums(whole.trees, bits[200:])
    close = whole.scale * sums + whole.offset
    assert sums.max() < 2**8
    assert ((close - exact) ** 2).mean() <= 0.05 * exact.var()


@given(
    st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=9),
    st.integers(1, 8),
    st.sampled_from([1e-320, 1e-200, 1.0]),
)
def test_no_span_of_leaves_overflows_a_sum(spans, sum_bits, unit):
    found = [BitNode(0, leaf(-s * unit), leaf(0.0)) for s in spans]
    whole = round_leaves(found, INPUTS, sum_bits)
    assert np.isfinite([*whole.scale, *whole.offset]).all()
    assert whole.scale[0] > 0
    assert 0 <= walk_sums(whole.trees, INPUTS).max() < 2**sum_bits


def test_steps_of_few_trees_span_what_their_leaves_do():
    """Of 20 trees and 31 steps each has one: the sum then has 20, and each is wider."""
    found = [BitNode(i % 10, leaf(0.0), leaf(1.0)) for i in range(20)]
    whole = round_leaves(found, INPUTS, 5)
    exact = sum(walk(tree, INPUTS) for tree in found)
    assert walk_sums(whole.trees, INPUTS).max() == 20
    assert np.allclose(whole.scale * walk_sums(whole.trees, INPUTS), exact)


def test_leaves_of_a_lone_tree_are_rounded_to_the_nearest():
    tree = BitNode(0, BitNode(value=(0.0,)), BitNode(3, *map(leaf, (0.6, 1.0))))
    whole = round_leaves([tree], INPUTS, 4)
    assert whole.scale.tolist() == [pytest.approx(1 / 15)]
    assert [v for (v,) in leaves(whole.trees[0])] == [0, 9, 15]
    assert whole.offset.tolist() == [pytest.approx(0)]


def leaf(value):
    return BitNode(value=(value,))


def test_a_test_between_equal_steps_is_left_out():
    tree = BitNode(0, BitNode(5, leaf(0.0), leaf(0.01)), leaf(1.0))
    assert round_leaves([tree], INPUTS, 3).trees == (BitNode(0, leaf(0.0), leaf(7.0)),)


@pytest.fixture(scope="module")
def forest():
    """A forest's trees on bits, the bits of rows to round by, and of others."""
    rows, truth = load_diabetes(return_X_y=True)
    model = RandomForestRegressor(10, max_depth=4, random_state=0)
    ensemble = ensemble_of(model.fit(rows[:300], truth[:300]))
    edges = quantile_edges(rows[:300], 16)
    found = bin_trees(ensemble, edges, rows[:300])
    return found, thermometer(rows[:300], edges), thermometer(rows[300:], edges)


def test_what_one_trees_leaf_lost_anothers_makes_good(forest):
    """On rows that were not looked at, too, against each leaf by itself."""
    found, seen, others = forest
    exact = sum(walk(tree, others) for tree in found)
    whole = round_leaves(found, seen, 5)
    together = whole.scale * walk_sums(whole.trees, others) + whole.offset
    alone = round_leaves(found, seen[:1], 5)
    apart = alone.scale * walk_sums(alone.trees, others)
    assert (together - exact).var() < (apart - exact).var() / 2
    assert abs((together - exact).mean()) < 0.2 * exact.std()
