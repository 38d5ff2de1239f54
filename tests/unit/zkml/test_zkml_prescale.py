"""Features that are only compared move with their thresholds, and nothing changes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from privacy.zkml.field import quantize
from privacy.zkml.onnx_prep import fix_batch, open_session
from privacy.zkml.prescale import moved, prescale

_LOW, _HIGH = np.array([0.0, -3e3, 1e-3]), np.array([0.01, 9e3, 2e-3])


class Comparing(torch.nn.Module):
    """Counts features at or below their thresholds; column 4 picks none."""

    def __init__(self, *, also: bool = False, gathers: bool = False) -> None:
        super().__init__()
        self.also, self.gathers = also, gathers
        self.register_buffer("select", torch.eye(3, 5))
        limits = torch.tensor([0.005, 1234.5, 0.0015, 0.0, -1.0])
        self.register_buffer("threshold", limits)

    def forward(self, x: Any) -> Any:
        if self.gathers:
            return (x[:, [0, 1, 2, 1, 0]] > self.threshold).float()
        held = (x @ self.select <= self.threshold).float()
        return held + x[:, :1] if self.also else held


def export(path: Path, module: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(1, 3),),
            str(path),
            input_names=["x"],
            dynamic_axes={"x": {0: "rows"}},
        )
    fix_batch(path, path)


def run(path: Path, rows: Any) -> Any:
    session, name = open_session(path.read_bytes())
    return np.concatenate(
        [session.run(None, {name: r[None].astype(np.float32)})[0] for r in rows]
    )


@pytest.mark.parametrize("gathers", [False, True])
def test_every_comparison_keeps_its_outcome(tmp_path: Path, *, gathers: bool) -> None:
    path = tmp_path / "m.onnx"
    export(path, Comparing(gathers=gathers))
    rows = np.random.default_rng(0).uniform(_LOW, _HIGH, (200, 3))
    before = run(path, rows)
    offset, scale = prescale(path, _LOW, _HIGH)
    moved = (rows - offset) / scale
    assert np.array_equal(run(path, moved), before)
    assert set(before[:, 0]) == {0.0, 1.0}
    assert (np.abs(moved).max(axis=0) > 7).all()
    assert (np.abs(moved) <= 16).all()
    assert np.array_equal(np.frexp(scale)[0], [0.5] * 3), "powers of two divide exactly"


def test_a_threshold_becomes_the_number_that_a_feature_equal_to_it_becomes() -> None:
    """Most are on an edge, or nearer to one than a float32 can tell."""
    rng = np.random.default_rng(0)
    for bits in range(7, 15):
        edges = (rng.integers(-(16 << bits), 16 << bits, 500) + 0.5) / 2.0**bits
        values = edges + rng.choice([0.0, 1e-8, -1e-8], 500)
        made = moved(values, 0.0, 1.0)
        assert made.dtype == np.float32
        assert np.abs(made - values).max() < 3e-6
        scaled = made.astype(np.float64) * 2.0**bits
        away_from_zero = np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)
        clients = [row[0] for row in quantize(values[:, None], scale_bits=bits)]
        assert np.array_equal(away_from_zero, clients)


@pytest.mark.parametrize(
    "module", [Comparing(also=True), torch.nn.Linear(3, 2)], ids=["also", "linear"]
)
def test_a_model_that_uses_its_input_otherwise_is_left_alone(
    tmp_path: Path, module: Any
) -> None:
    path = tmp_path / "m.onnx"
    export(path, module)
    before = path.read_bytes()
    offset, scale = prescale(path, _LOW, _HIGH)
    assert path.read_bytes() == before
    assert not offset.any()
    assert (scale == 1).all()


def test_features_that_are_given_out_as_well_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(path, Comparing(gathers=True))
    model = onnx.load(str(path))
    pick = next(node for node in model.graph.node if node.op_type == "Gather")
    model.graph.output[0].name = pick.output[0]
    onnx.save(model, str(path))
    offset, scale = prescale(path, _LOW, _HIGH)
    assert not offset.any()
    assert (scale == 1).all()
