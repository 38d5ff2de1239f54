"""Inputs that drive a model's values far: what a circuit must still be able to hold.

Samples alone understate what inputs can reach, and a circuit fails on values beyond its
range. So we look at every value inside the model, not at its outputs only, and search
the corners of the input box for the ones that push them furthest. For the first linear
layer this is exact; deeper it is a good search, not a bound, and the node refuses what
slips through (`out-of-range`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from privacy.zkml.onnx_prep import inner_values

_RANDOM = 64
_UNITS = 8
_MOST = 48

_Forward = Callable[[Any], list[Any]]


def widened_range(rows: Any, *, margin: float) -> tuple[Any, Any]:
    """Return the least and greatest value allowed for each feature.

    Args:
        rows: Standardised samples, shape (rows, features).
        margin: Fraction of each feature's width to add at either end.

    Returns:
        Two float64 arrays of shape (features,), rounded outwards to two digits of the
        width, so that they tell little of single rows.
    """
    low = rows.min(axis=0).astype(np.float64)
    high = rows.max(axis=0).astype(np.float64)
    room = margin * (high - low)
    width = (high - low) + 2 * room
    unit = 10.0 ** (np.floor(np.log10(np.where(width > 0, width, 1.0))) - 1)
    return np.floor((low - room) / unit) * unit, np.ceil((high + room) / unit) * unit


def far_corners(onnx: Path, low: Any, high: Any) -> Any:
    """Return corners of the box that drive some value of the model to an extreme.

    Args:
        onnx: The model, batch of one.
        low: Least value of each feature.
        high: Greatest value of each feature.

    Returns:
        float32, shape (at most 48, features).
    """
    forward = _every_value(onnx)
    rng = np.random.default_rng(0)
    picks = rng.random((_RANDOM, len(low))) < 0.5  # noqa: PLR2004 - a fair coin
    tries = [low, high, *(np.where(p, low, high) for p in picks)]
    tries += _steepest(forward, low, high)
    best: dict[tuple[int, bool], tuple[float, int]] = {}
    for i, row in enumerate(tries):
        for j, value in enumerate(forward(row)):
            for up in (True, False):
                reach = float(value.max() if up else -value.min())
                if reach > best.get((j, up), (-np.inf, 0))[0]:
                    best[j, up] = (reach, i)
    ranked = sorted({i for _, i in best.values()} | {0, 1})
    return np.array([tries[i] for i in ranked[:_MOST]], dtype=np.float32)


def _every_value(onnx_path: Path) -> _Forward:
    """Return a function from a row to every floating-point value of the model."""
    import onnx

    graph = (model := onnx.load(str(onnx_path))).graph
    made = [n for node in graph.node if node.op_type != "Constant" for n in node.output]
    outputs = [output.name for output in graph.output]
    values = inner_values(model, list(dict.fromkeys([*outputs, *filter(None, made)])))

    def forward(row: Any) -> list[Any]:
        return [v.ravel() for v in values(row) if v.dtype.kind == "f" and v.size]

    return forward


def _steepest(forward: _Forward, low: Any, high: Any) -> list[Any]:
    """Return corners along the slopes of the units that the input moves most."""
    centre = (low + high) / 2
    base = forward(centre)
    moved = []
    for i in range(len(low)):
        row = centre.copy()
        row[i] = high[i]
        moved.append(forward(row))
    corners = []
    for j, value in enumerate(base):
        slopes = np.array([m[j] - value for m in moved])  # (features, units)
        for unit in np.argsort(-np.abs(slopes).sum(axis=0))[:_UNITS]:
            up = slopes[:, unit] > 0
            corners += [np.where(up, high, low), np.where(up, low, high)]
    return corners
