"""Cut what goes into sigmoids, tanhs and softmaxes to where these still change.

A circuit looks their values up in a table of all that an input can reach, and keys and
proofs are as large as the table. Beyond a few units they give the same to within
0.0007: so what goes further is cut there, which is cheaper than the table.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from privacy.zkml.corners import far_corners
from privacy.zkml.onnx_prep import inner_values

_ENDS = {"Sigmoid": 8.0, "Tanh": 4.0, "Softmax": 8.0}
"""How far from zero, or for Softmax below the greatest, inputs still count.

Of many inputs of a softmax, those that do not count alone might together: the logarithm
of their number is added.
"""
_ENDS_ARE_INPUTS, _ONE_AXIS, _AXES_ARE_INPUTS = 11, 13, 18
"""Operator sets from which Clip takes its ends as inputs, Softmax is along one axis and
not along all from there on, and ReduceMax takes its axes as an input.
"""


def saturate(path: Path, low: Any, high: Any) -> None:
    """Cut, in place, the inputs of such operators that reach further.

    Args:
        path: The ONNX model, batch of one.
        low: Least value of each feature, as the model takes it.
        high: Greatest value of each feature.
    """
    import onnx

    model = onnx.load(str(path))
    nodes = [node for node in model.graph.node if node.op_type in _ENDS]
    version = _operator_set(model)
    if not nodes or version < _ENDS_ARE_INPUTS:
        return
    ends, reach = np.zeros(len(nodes)), np.zeros(len(nodes))
    axes = list[tuple[int, ...]]()
    forward = inner_values(model, [node.input[0] for node in nodes])
    for row in far_corners(path, low, high):
        values = forward(row)
        axes = [_axes(n, v.ndim, version) for n, v in zip(nodes, values, strict=True)]
        trios = list(zip(nodes, values, axes, strict=True))
        reach = np.maximum(reach, [_reach(*trio) for trio in trios])
        ends = np.array([_end(*trio) for trio in trios])
    for number, (node, end) in enumerate(zip(nodes, ends, strict=True)):
        if reach[number] > end:
            _cut(model, node, end, axes[number], f"saturate_{number}")
    onnx.save(model, str(path))


def _operator_set(model: Any) -> int:
    standard = {"", "ai.onnx"}
    return next((o.version for o in model.opset_import if o.domain in standard), 0)


def _reach(node: Any, value: Any, axes: tuple[int, ...]) -> float:
    if node.op_type == "Softmax":
        return float((value.max(axis=axes) - value.min(axis=axes)).max())
    return float(np.abs(value).max())


def _end(node: Any, value: Any, axes: tuple[int, ...]) -> float:
    many = math.prod(value.shape[axis] for axis in axes)
    return _ENDS[node.op_type] + math.log(many)


def _axes(node: Any, dimensions: int, version: int) -> tuple[int, ...]:
    """Return the axes whose values a softmax makes add up to one; none for others."""
    if node.op_type != "Softmax":
        return ()
    given = next((a.i for a in node.attribute if a.name == "axis"), None)
    if version >= _ONE_AXIS:
        return (-1 if given is None else given,)
    return tuple(range((1 if given is None else given) % dimensions, dimensions))


def _cut(
    model: Any, node: Any, end: float, along: tuple[int, ...], prefix: str
) -> None:
    """Insert what cuts a node's input."""
    from onnx import helper, numpy_helper

    graph = model.graph

    def constant(what: str, array: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(array, f"{prefix}_{what}"))
        return f"{prefix}_{what}"

    given, made = node.input[0], f"{prefix}_cut"
    if node.op_type == "Softmax":  # the same whatever is added to all of them
        most, below, above = (f"{prefix}_{what}" for what in ("most", "below", "above"))
        axes = np.array(along)
        reduced = (
            helper.make_node("ReduceMax", [given, constant("axes", axes)], [most])
            if _operator_set(model) >= _AXES_ARE_INPUTS
            else helper.make_node("ReduceMax", [given], [most], axes=axes.tolist())
        )
        added = [
            reduced,
            helper.make_node("Sub", [given, most], [below]),
            helper.make_node(
                "Add", [below, constant("end", np.array(end, np.float32))], [above]
            ),
            helper.make_node("Relu", [above], [made]),
        ]
    else:
        low = constant("low", np.array(-end, np.float32))
        high = constant("high", np.array(end, np.float32))
        added = [helper.make_node("Clip", [given, low, high], [made])]
    at = list(graph.node).index(node)
    for offset, other in enumerate(added):
        graph.node.insert(at + offset, other)
    node.input[0] = made
