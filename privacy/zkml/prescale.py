"""Put features that are only compared with thresholds on one scale, exactly.

Trees are trained on features as they come: areas in thousands beside ratios of
hundredths. No fixed-point scale serves both. Where a model does nothing with its input
but compare single features with constants, we move each feature and its thresholds to
the same range instead; every comparison keeps its outcome. Clients and nodes do
the same to a row before they quantise it (`ZkmlParams.quantize`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from privacy.zkml.onnx_prep import constants, input_name

_HALF_WIDTH = 16.0
_BEYOND = _HALF_WIDTH + 1
"""Where thresholds are put that no allowed feature reaches: the numbers stay small."""
_EDGES = 2.0**16
"""Edges of all fixed-point scales in use are multiples of 1 / _EDGES."""
_COMPARISONS = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"})


def prescale(path: Path, low: Any, high: Any) -> tuple[Any, Any]:
    """Rewrite a model's thresholds in place, and return what to do to its input.

    Args:
        path: The ONNX model.
        low: Least value of each feature.
        high: Greatest value of each feature.

    Returns:
        Offset and scale, float64, shape (features,): the rewritten model takes
        (x - offset) / scale. Zeros and ones, and an unchanged file, if the model does
        anything else with its input. Scales are powers of two, so dividing is exact.
    """
    import onnx

    model = onnx.load(str(path))
    found = list(_comparisons(model.graph, len(low)))
    if not found or None in found:
        return np.zeros(len(low)), np.ones(len(low))
    offset, scale = one_scale(low, high)
    for i, item in enumerate(found):
        node, select, threshold = item
        factor = np.where(select.any(axis=0), scale @ select, 1.0)
        name = f"prescaled_threshold_{i}"
        limits = moved(threshold, offset @ select, factor)
        tensor = onnx.numpy_helper.from_array(limits, name)
        model.graph.initializer.append(tensor)
        node.input[1] = name
    onnx.save(model, str(path))
    return offset, scale


def one_scale(low: Any, high: Any) -> tuple[Any, Any]:
    """Return offset and scale that bring every feature to the same range.

    Args:
        low: Least value of each feature.
        high: Greatest value of each feature.
    """
    half = np.maximum((high - low) / 2, 2.0**-40)
    return (low + high) / 2, 2.0 ** np.ceil(np.log2(half / _HALF_WIDTH))


def moved(thresholds: Any, offset: Any, scale: Any) -> Any:
    """Return thresholds, float32, that features on one scale are compared with.

    In fixed point, each is the same number as a feature that is equal to it. So none
    stays on an edge between two such numbers: there the engine goes away from zero, and
    clients to the even one.
    """
    limits = np.clip((thresholds - offset) / scale, -_BEYOND, _BEYOND)
    near = limits.astype(np.float32)
    edge = near.astype(np.float64) * _EDGES
    on_edge = (edge % 1 == 0) & (edge != 0)
    number = np.where(on_edge, edge, 1).astype(np.int64)
    # An edge is one at a single scale: where it is an odd number of halves.
    halves = number // (number & -number)
    to_even = np.where(halves % 4 == 1, -np.inf, np.inf)
    beside = np.where(limits > near, np.inf, -np.inf)
    towards = np.where(limits == near, to_even, beside).astype(np.float32)
    return np.where(on_edge, np.nextafter(near, towards), near)


def _comparisons(graph: Any, features: int) -> Iterator[Any]:
    """Yield (comparison, one-hot selection, thresholds), or None for any other use."""
    weights, given_out = constants(graph), {value.name for value in graph.output}
    for pick in _users(graph, input_name(graph)):
        select = _selection(pick, weights, features)
        if select is None or pick.output[0] in given_out:
            yield None
            return
        for node in _users(graph, pick.output[0]):
            is_first = node.input[0] == pick.output[0]
            compares = node.op_type in _COMPARISONS and is_first
            threshold = weights.get(node.input[1]) if compares else None
            if threshold is None:
                yield None
                return
            yield node, select, threshold.astype(np.float64)


def _selection(pick: Any, weights: dict[str, Any], features: int) -> Any:
    """Return which feature each column is, one-hot; None if it is anything else."""
    chosen = weights.get(pick.input[1]) if len(pick.input) > 1 else None
    if chosen is None:
        return None
    if pick.op_type == "Gather" and chosen.ndim == 1:
        by_feature = [a.i for a in pick.attribute if a.name == "axis"] == [1]
        return np.eye(features)[:, chosen] if by_feature else None
    is_one_hot = pick.op_type == "MatMul" and _selects(chosen)
    return chosen.astype(np.float64) if is_one_hot else None


def _users(graph: Any, name: str) -> list[Any]:
    return [node for node in graph.node if name in node.input]


def _selects(matrix: Any) -> bool:
    """Whether each column picks one feature, or none."""
    ones = matrix == 1
    return bool(((matrix == 0) | ones).all() and (ones.sum(axis=0) <= 1).all())
