"""Quantizers: rounding, clipping and the way back."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from privacy.errors import FormatError
from privacy.fhe.caveats import clipping_caveats
from privacy.fhe.quantizers import (
    OutputSteps,
    Quantizer,
    SumSteps,
    find_clipped,
    parse_quantizer,
    parse_steps,
    quantize,
    quantizer_to_json,
    raw_outputs,
)
from privacy.fhe.thermometer import Edges

ONE = Quantizer(scale=0.5, zero_point=-1, low=-8, high=7)
STEPS = OutputSteps(scale=1.0, zero_point=(0.0,), sum_last=False, add=(0.0,))


def test_quantize_rounds_half_to_even_as_concrete_ml_does():
    rows = np.array([[0.25, 0.75, -0.25]])
    assert quantize(rows, [ONE]).tolist() == [[0, 0, -2]]  # of -0.5, 0.5 and -1.5


def test_quantize_clips_values_beyond_the_calibrated_range():
    assert quantize(np.array([[1e300, -1e300]]), [ONE]).tolist() == [[7, -8]]


def test_quantize_uses_one_quantizer_a_feature():
    other = Quantizer(scale=2.0, zero_point=3, low=0, high=15)
    assert quantize(np.array([[1.0, 4.0]]), [ONE, other]).tolist() == [[1, 5]]


def test_raw_outputs_subtracts_each_outputs_zero_point():
    steps = OutputSteps(scale=0.5, zero_point=(1.0, 2.5), sum_last=False, add=(0.0,))
    assert raw_outputs(np.array([[3, 3]]), steps).tolist() == [[1.0, 0.25]]


def test_raw_outputs_sums_trees_and_adds_the_base():
    steps = OutputSteps(scale=2.0, zero_point=(0.0,), sum_last=True, add=(0.5,))
    integers = np.array([[[1, 2, 3], [4, 5, 6]]])
    assert raw_outputs(integers, steps).tolist() == [[12.5, 30.5]]


def test_a_quantizer_survives_json():
    assert parse_quantizer(quantizer_to_json(ONE)) == ONE


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": "x"},
        {"zero_point": 0.5},
        {"low": 7},
        {"high": None},
        {"rmin": -3.1},
    ],
)
def test_parsing_refuses_a_changed_quantizer(change):
    with pytest.raises(FormatError):
        parse_quantizer({**quantizer_to_json(ONE), **change})


@pytest.mark.parametrize(
    "change",
    [{"scale": 0}, {"zero_point": []}, {"add": []}, {"add": ["x"]}, {"sum_last": 1}],
)
def test_parsing_refuses_changed_output_steps(change):
    good = {"scale": 1.0, "zero_point": [0], "sum_last": False, "add": [0]}
    assert parse_steps(good) == OutputSteps(1.0, (0.0,), sum_last=False, add=(0.0,))
    with pytest.raises(FormatError):
        parse_steps({**good, **change})


def test_values_beyond_a_quantizers_ends_are_counted():
    other = Quantizer(scale=2.0, zero_point=3, low=0, high=15)
    rows = np.array([[-3.5, -6.0], [4.0, 24.0], [4.3, 25.1], [-4.0, -7.1]])
    assert len(find_clipped(rows[:2], [ONE, other], STEPS)) == 0
    found = find_clipped(rows, [ONE, other], STEPS)
    assert found.tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]
    assert len(find_clipped(rows, [ONE], STEPS)) == 6  # one for all features


def test_nothing_is_clipped_where_features_are_compared_with_edges():
    sums = SumSteps((1.0,), (0.0,), complement=False)
    assert len(find_clipped(np.array([[1e9]]), [Edges((0.0, 1.0))], sums)) == 0
    trees = replace(STEPS, sum_last=True)  # Concrete-ML's
    assert len(find_clipped(np.array([[1e9]]), [ONE], trees)) == 0


def test_a_caveat_says_how_many_values_were_clipped():
    spec = SimpleNamespace(quantizers=[ONE], output=STEPS)
    assert clipping_caveats(np.array([[0.0, 4.0]]), spec) == ()
    (caveat,) = clipping_caveats(np.array([[0.0, 4.3], [5.0, 1.0]]), spec)
    assert caveat.startswith("2 of 4 values lie beyond")
