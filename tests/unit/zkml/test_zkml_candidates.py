"""The accuracy gate, the input range, and the search for far corners."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import FormatError
from privacy.zkml.candidates import shortfall
from privacy.zkml.corners import far_corners, widened_range
from privacy.zkml.onnx_prep import fix_batch

_CLEAR = np.linspace(-4, 4, 200)[:, None]
_HOW = {"activation": "sigmoid", "task": "classification"}


def test_equal_answers_pass() -> None:
    assert shortfall(_CLEAR, _CLEAR, **_HOW) == ""  # type: ignore[arg-type]


def test_two_flipped_labels_of_200_pass_and_three_do_not() -> None:
    for flips, passes in ((2, True), (3, False)):
        raw = _CLEAR.copy()
        raw[:flips] *= -1
        assert (shortfall(raw, _CLEAR, **_HOW) == "") is passes  # type: ignore[arg-type]


def test_kept_labels_with_large_errors_do_not_pass() -> None:
    raw = np.sign(_CLEAR) * 9
    reason = shortfall(raw, _CLEAR, **_HOW)  # type: ignore[arg-type]
    assert "within an error of 0.05" in reason


def test_nan_does_not_pass() -> None:
    raw = np.full_like(_CLEAR, np.nan)
    assert shortfall(raw, _CLEAR, activation="none", task="regression")


def test_a_regression_is_measured_against_its_spread() -> None:
    clear = np.linspace(0, 1e-3, 100)[:, None]
    how = {"activation": "none", "task": "regression"}
    assert shortfall(clear + 1e-5, clear, **how) == ""  # type: ignore[arg-type]
    assert shortfall(clear + 1e-4, clear, **how)  # type: ignore[arg-type]


def test_the_range_is_rounded_outwards() -> None:
    low, high = widened_range(np.array([[-0.93, 0.0], [1.07, 0.33]]), margin=0.25)
    assert low.tolist() == pytest.approx([-1.5, -0.09])
    assert high.tolist() == pytest.approx([1.6, 0.42])


def test_a_constant_feature_has_a_range() -> None:
    low, high = widened_range(np.full((3, 1), 2.03), margin=0.25)
    assert low[0] <= 2.03 <= high[0]
    assert low[0] < high[0]


def test_the_corners_of_a_linear_model_are_its_true_extremes(
    linear: Any, tmp_path: Path
) -> None:
    assert fix_batch(linear.folder / "model.onnx", tmp_path / "one.onnx") == 30
    low, high = np.full(30, -2.0), np.linspace(1.0, 3.0, 30)
    corners = far_corners(tmp_path / "one.onnx", low, high)
    assert ((corners == low) | np.isclose(corners, high)).all()
    reached = linear.clear(corners)
    up = linear.weights > 0
    best = linear.clear(np.where(up, high, low)[None])[0, 0]
    worst = linear.clear(np.where(up, low, high)[None])[0, 0]
    assert reached.max() == pytest.approx(best, rel=1e-5)
    assert reached.min() == pytest.approx(worst, rel=1e-5)


def test_a_model_with_two_inputs_is_refused(linear: Any, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(linear.folder / "model.onnx")
    extra = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 2])
    model.graph.input.append(extra)
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(FormatError) as caught:
        fix_batch(tmp_path / "two.onnx", tmp_path / "out.onnx")
    assert caught.value.code == "unsupported-model"


def test_an_input_of_whole_numbers_is_refused(linear: Any, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(linear.folder / "model.onnx")
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, tmp_path / "int.onnx")
    with pytest.raises(FormatError):
        fix_batch(tmp_path / "int.onnx", tmp_path / "out.onnx")
