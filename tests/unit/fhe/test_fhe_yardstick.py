"""What a circuit is said to lose."""

import numpy as np
import pytest

from privacy.fhe.yardstick import FOLDS, Yardstick

ROWS = np.arange(80.0)[:, None]
CLEAR = np.where(ROWS < 40, [[1.0, 0.0]], [[0.0, 1.0]])
TRUTH = (ROWS[:, 0] >= 48).astype(int)


def yardstick(truth=None, task="classification"):
    return Yardstick(ROWS, CLEAR, truth, "softmax" if task != "raw" else "none", task)


def flipped(rows):
    return np.where(rows < 48, [[1.0, 0.0]], [[0.0, 1.0]])


def test_without_labels_a_lost_point_is_a_row_with_another_label():
    assert yardstick().measures == "label_agreement"
    assert np.mean(yardstick().losses_of(flipped)) == pytest.approx(10.0)


def test_with_labels_a_circuit_that_is_right_where_the_model_is_not_gains():
    assert yardstick(TRUTH).measures == "accuracy"
    assert np.mean(yardstick(TRUTH).losses_of(flipped)) == pytest.approx(-10.0)


def test_without_classes_the_loss_is_of_variance():
    raw = yardstick(task="raw")
    assert raw.measures == "variance"
    assert np.mean(raw.losses_of(lambda r: CLEAR[r[:, 0].astype(int)])) == 0
    assert np.mean(raw.losses_of(lambda r: np.full((len(r), 2), 0.5))) == pytest.approx(
        100.0
    )


def test_the_loss_is_of_the_output_that_loses_most_whatever_its_offset():
    slope = ROWS / 80 + [0.0, 1000.0]
    made = Yardstick(ROWS, slope, None, "none", "regression")
    assert np.mean(made.losses_of(lambda r: slope[r[:, 0].astype(int)])) == 0
    lost = made.losses_of(lambda r: np.column_stack([r / 80, np.full(len(r), 1000.5)]))
    assert np.mean(lost) == pytest.approx(100.0, abs=1.0)


def test_every_row_is_judged_once_by_a_fit_that_has_not_seen_it():
    judged = []

    def fit(seen):
        def outputs(kept):
            judged.extend(kept[:, 0])
            assert not set(kept[:, 0]) & set(seen[:, 0])
            return flipped(kept)

        return outputs

    assert len(yardstick().losses(fit)) == FOLDS
    assert sorted(judged) == ROWS[:, 0].tolist()


def test_few_rows_are_judged_at_once():
    few = Yardstick(ROWS[:30], CLEAR[:30], None, "softmax", "classification")
    assert len(few.losses_of(flipped)) == 1
