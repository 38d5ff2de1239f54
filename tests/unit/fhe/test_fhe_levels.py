"""The search for a linear index, against trying everything."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.fhe.levels import fit


@st.composite
def functions(draw):
    """Values for every combination of the states of a few features."""
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    size = int(np.prod(shape))
    values = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    return np.array(values).reshape(shape)


def indices_of(values, levels):
    """Return the entry of every combination of states, and its value."""
    return [
        (sum(mine[at] for mine, at in zip(levels, states, strict=True)), values[states])
        for states in np.ndindex(values.shape)
    ]


@settings(deadline=None, max_examples=200)
@given(functions(), st.integers(2, 16))
def test_what_is_found_fits_and_tells_apart_what_differs(values, size):
    levels = fit(values, size)
    if levels is None:
        return
    held = {}
    for entry, value in indices_of(values, levels):
        assert 0 <= entry < size
        assert held.setdefault(entry, value) == value


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2), min_size=8, max_size=8), st.integers(2, 8))
def test_nothing_is_overlooked_for_three_features_of_two_states(values, size):
    """Every whole weight is tried by hand, of either sign."""
    values = np.array(values).reshape(2, 2, 2)
    within = range(1 - size, size)
    can = any(
        sum(map(abs, weights)) < size
        and _tells_apart(values, [(max(0, -w), max(0, w)) for w in weights])
        for weights in product(within, repeat=3)
    )
    assert (fit(values, size) is not None) == can


def _tells_apart(values, levels):
    held = {}
    return all(held.setdefault(at, v) == v for at, v in indices_of(values, levels))


def test_a_condition_between_two_edges_takes_one_entry_more():
    assert fit(np.array([0, 1, 0]), 2) in [((0, 1, 0),), ((1, 0, 1),)]


def test_leaves_that_agree_share_entries():
    """Two conditions and three tests: 24 entries to count them, 15 here."""
    values = np.zeros((2, 2, 2, 2, 2), dtype=int)
    for c, d, e in product(range(2), repeat=3):
        values[1, 1, c, d, e] = e if c else d
    assert fit(values, 16) is not None


def test_a_function_of_too_many_combinations_is_not_searched():
    rng = np.random.default_rng(0)
    assert fit(rng.integers(0, 9, (4, 4, 4, 4)), 16) is None


@pytest.mark.parametrize("size", [4, 16])
def test_the_same_function_gets_the_same_levels(size):
    values = np.array([[0, 1], [1, 0]])
    assert fit(values, size) == fit(values.copy(), size)
