"""Sample rows that follow from the quantizers, and the answers a manifest holds."""

import numpy as np
import pytest

from privacy.errors import FormatError
from privacy.fhe.options import DEFAULT_P_ERROR, FAST_P_ERROR
from privacy.fhe.quantizers import Quantizer
from privacy.fhe.samples import Bounds, parse_bounds, sample_values
from privacy.fhe.thermometer import Edges

ONE = Quantizer(scale=0.5, zero_point=-1, low=-8, high=7)
BOUNDS = Bounds(np.array([[0], [5], [9]]), np.array([[2], [5], [9]]))


def test_sample_rows_are_the_same_everywhere():
    assert sample_values([ONE], 2, features=3).tolist() == [[-8, -4, -6], [7, -5, 4]]


def test_sample_rows_use_the_whole_range_and_nothing_beyond():
    values = sample_values([ONE], 200, features=4)
    assert values.shape == (200, 4)
    assert set(values.ravel().tolist()) == set(range(-8, 8))


def test_sample_bits_are_such_as_some_feature_has():
    edges = [Edges((0.0, 1.0, 2.0)), Edges(()), Edges((5.0,))]
    rows = sample_values(edges, 50, features=3)
    assert {tuple(row[:3]) for row in rows.tolist()} == {
        (0, 0, 0),
        (1, 0, 0),
        (1, 1, 0),
        (1, 1, 1),
    }
    assert {row[3] for row in rows.tolist()} == {0, 1}


def test_only_where_look_ups_err_by_choice_may_a_sample_be_missed():
    assert BOUNDS.hold(np.array([[1], [5], [9]]), p_error=DEFAULT_P_ERROR)
    missed = np.array([[1], [6], [9]])
    assert not BOUNDS.hold(missed, p_error=DEFAULT_P_ERROR)
    assert BOUNDS.hold(missed, p_error=FAST_P_ERROR)
    assert not BOUNDS.hold(missed + 1, p_error=FAST_P_ERROR)


def test_bounds_survive_the_manifest():
    found = parse_bounds(BOUNDS.to_json())
    assert np.array_equal(found.least, BOUNDS.least)
    assert np.array_equal(found.most, BOUNDS.most)


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"least": [], "most": []},
        {"least": [[1]], "most": [[1], [2]]},
        {"least": [[1.5]], "most": [[2]]},
        {"least": [["a"]], "most": [["b"]]},
        {"least": [[1], [2, 3]], "most": [[1], [2, 3]]},
        {"least": None, "most": None},
    ],
)
def test_malformed_bounds_are_refused(value):
    with pytest.raises(FormatError):
        parse_bounds(value)
