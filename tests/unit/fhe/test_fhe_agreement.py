"""How far honest runs of a model may differ."""

import numpy as np
import pytest

from privacy.errors import CannotVerifyError
from privacy.fhe.agreement import agreement_of

EXACT = {"samples": {"least": [[3], [9]], "most": [[3], [9]]}, "p_error": 2.0**-40}
ROUNDED = {**EXACT, "samples": {"least": [[3], [8]], "most": [[4], [9]]}}
FAST = {**EXACT, "p_error": 2.0**-14}


def ints(*rows):
    return np.array(rows, dtype=np.int64)


def test_an_exact_circuit_gives_the_same_integers_or_somebody_lies():
    rule = agreement_of(EXACT)
    assert rule.differing(ints([1, 2], [3, 4]), ints([1, 2], [3, 4])) == 0
    assert rule.differing(ints([1, 2], [3, 4]), ints([1, 2], [3, 5])) == 1
    assert rule.allows(0, 256)
    assert not rule.allows(1, 1)
    assert not rule.allows(1, 256)


def test_a_circuit_that_rounds_may_be_off_by_as_much_as_its_samples_show():
    rule = agreement_of(ROUNDED)
    assert rule.differing(ints([10], [10]), ints([12], [8])) == 0
    assert rule.differing(ints([10], [10]), ints([12], [7])) == 1


def test_where_look_ups_err_by_choice_only_many_rows_accuse():
    rule = agreement_of(FAST)
    assert rule.allows(1, 1)
    assert rule.allows(2, 8)
    assert not rule.allows(8, 8)
    assert rule.allows(40, 256)
    assert not rule.allows(100, 256)


def test_honest_runs_of_a_fast_model_are_hardly_ever_accused():
    """Rows err with the chance that the rule assumes, which is more than they do."""
    rule, random = agreement_of(FAST), np.random.default_rng(7)
    draws = random.binomial(32, rule.row_errs, size=100_000)
    assert np.mean([not rule.allows(int(k), 32) for k in np.unique(draws)]) < 0.2
    accused = sum(
        int((draws == k).sum()) for k in np.unique(draws) if not rule.allows(int(k), 32)
    )
    assert accused <= 3


def test_a_model_of_many_look_ups_errs_more_often():
    many = agreement_of({**FAST, "look_ups": 8000})
    assert many.allows(100, 256)
    assert not agreement_of(FAST).allows(100, 256)
    assert not agreement_of({**FAST, "look_ups": 30}).allows(20, 256)


def test_without_bounds_nobody_is_accused():
    with pytest.raises(CannotVerifyError, match="how far honest answers"):
        agreement_of({"p_error": 2.0**-40, "no_samples": "unknown"})
