"""Cut what goes into sigmoids, tanhs and softmaxes to where these still change.

A circuit looks their values up in a table of all that an input can reach, and keys and
proofs are as large as the table. Beyond a few units they give the same to within
0.0007: so what goes further is cut there, which is cheaper than the table. Sigmoids and
tanhs that are few are also looked up for the positive half alone: the sign of what goes
in is taken off before, and put on after.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from privacy.zkml.corners import far_corners
from privacy.zkml.onnx_prep import inner_values

_ENDS = {"Sigmoid": 7.5, "Tanh": 4.0, "Softmax": 8.0}
"""How far from zero, or for Softmax below the greatest, inputs still count.

Of many inputs of a softmax, those that do not count alone might together: the logarithm
of their number is added.
"""
_CENTRES = {"Sigmoid": 0.5, "Tanh": 0.0}
"""What they are odd about."""
_FEW = 64
"""Values of one operator: taking the sign off costs some forty cells for each."""
_CUT = "saturate_"
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
    sizes = [0] * len(nodes)
    axes = list[tuple[int, ...]]()
    forward = inner_values(model, [node.input[0] for node in nodes])
    for row in far_corners(path, low, high):
        values = forward(row)
        axes = [_axes(n, v.ndim, version) for n, v in zip(nodes, values, strict=True)]
        sizes = [value.size for value in values]
        trios = list(zip(nodes, values, axes, strict=True))
        reach = np.maximum(reach, [_reach(*trio) for trio in trios])
        ends = np.array([_end(*trio) for trio in trios])
    for number, (node, end) in enumerate(zip(nodes, ends, strict=True)):
        if reach[number] > end:
            prefix = f"{_CUT}{number}"
            few = node.op_type in _CENTRES and sizes[number] <= _FEW
            if few:
                _fold(model, node, prefix)
            _cut(model, node, end, axes[number], prefix, folded=few)
    onnx.save(model, str(path))


def tables_are_cut(path: Path) -> bool:
    """Return whether every sigmoid and tanh of a model takes what was cut here.

    Then no input leads further into their tables than the ends.
    """
    import onnx

    nodes = list(onnx.load(str(path)).graph.node)
    mine = [node for node in nodes if node.op_type in _CENTRES]
    return bool(mine) and all(n.input[0].startswith(_CUT) for n in mine)


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


def _constant(model: Any, name: str, value: Any) -> str:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return name


def _fold(model: Any, node: Any, prefix: str) -> None:
    """Take the sign off a node's input, and put it on its output."""
    from onnx import helper

    given, told = node.input[0], node.output[0]
    side, size, half, over, turned, centre = (
        f"{prefix}_{what}"
        for what in ("side", "size", "half", "over", "turned", "centre")
    )
    before = [
        helper.make_node("Sign", [given], [side]),
        helper.make_node("Mul", [given, side], [size]),
    ]
    after = [helper.make_node("Mul", [half, side], [told])]
    if value := _CENTRES[node.op_type]:
        _constant(model, centre, np.float32(value))
        after = [
            helper.make_node("Sub", [half, centre], [over]),
            helper.make_node("Mul", [over, side], [turned]),
            helper.make_node("Add", [turned, centre], [told]),
        ]
    node.input[0], node.output[0] = size, half
    nodes = model.graph.node
    at = list(nodes).index(node)
    for offset, other in enumerate(after):
        nodes.insert(at + 1 + offset, other)
    for offset, other in enumerate(before):
        nodes.insert(at + offset, other)


def _cut(
    model: Any,
    node: Any,
    end: float,
    along: tuple[int, ...],
    prefix: str,
    *,
    folded: bool,
) -> None:
    """Insert what cuts a node's input; a folded one is not below zero."""
    from onnx import helper

    graph = model.graph

    def constant(what: str, array: Any) -> str:
        return _constant(model, f"{prefix}_{what}", array)

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
            helper.make_node("Add", [below, constant("end", np.float32(end))], [above]),
            helper.make_node("Relu", [above], [made]),
        ]
    else:
        low = constant("low", np.float32(0.0 if folded else -end))
        high = constant("high", np.float32(end))
        added = [helper.make_node("Clip", [given, low, high], [made])]
    at = list(graph.node).index(node)
    for offset, other in enumerate(added):
        graph.node.insert(at + offset, other)
    node.input[0] = made
