"""Write ReLUs and averages in fewer cells, at the price of a power of two.

x + |x| is twice a ReLU and takes four cells less; a sum of four values takes three,
their mean some fifty. What follows in a network is mostly linear and carries such a
power of two along, if biases are taken as often. The outputs then are too large by a
power of two, which is a matter of their scale: it is told to whoever decodes them.
Before anything that is not linear, the weights of the last layer take it off; and two
bits of it before the outputs, which are the largest values and would need more digits.

Weights that take bits off are less precise by as many, and each bit counts towards the
digits of every value. So in deep networks, only the first layers gain.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from privacy.encoding import Json
from privacy.zkml.onnx_prep import (
    constants,
    inner_values,
    input_name,
    moving,
    prune,
)
from privacy.zkml.writer import Writer

_GAINING = frozenset({"Relu", "AveragePool"})
_MOST_OFF = 2
"""Bits that the weights before the outputs take off, and are less precise by."""
_MOST_TAKEN = 3
"""From this on nothing gains, where weights will take it off."""
_MOST_TOLD = 8
"""From this on no ReLU gains; averages do, which cost twenty times as much."""
_LINEAR = frozenset({"MatMul", "Gemm", "Conv"})
_CARRYING = _GAINING | {
    "Add",
    "Sub",
    "Dropout",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators of one value that give as many times the result for so many times it; for
Add and Sub, if the constant is taken so often, too.
"""


def double(path: Path, features: int) -> int:
    """Rewrite a model in place, and return by how many bits its outputs are too large.

    Args:
        path: The ONNX model, batch of one.
        features: Width of its input.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    if not any(node.op_type in _GAINING for node in graph.node):
        return 0
    work = _Work(graph, _pooled(model, features))
    work.go()
    prune(graph)
    bits = work.bits.get(graph.output[0].name, 0)
    onnx.save(model, str(path))
    return bits


def _pooled(model: Any, features: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what goes into averages, by what comes out."""
    pools = [node for node in model.graph.node if node.op_type == "AveragePool"]
    if not pools:
        return {}
    values = inner_values(model, [n.input[0] for n in pools])(np.zeros(features))
    return {n.output[0]: v.shape for n, v in zip(pools, values, strict=True)}


class _Work:
    def __init__(self, graph: Any, pooled: dict[str, tuple[int, ...]]) -> None:
        self._graph, self._pooled = graph, pooled
        self._constants = constants(graph)
        self._write = Writer("double", graph)
        self.bits = {input_name(graph): 0}
        self._moving = moving(graph)
        self._exact = self._needed()
        self._taken = self._taken_off()
        self._last = self._before_outputs()

    def _inputs(self, node: Any) -> list[str]:
        return [name for name in node.input if name in self._moving]

    def _is_linear(self, node: Any) -> bool:
        others = [n for n in node.input if n and n not in self._moving]
        return (
            node.op_type in _LINEAR
            and len(self._inputs(node)) == 1
            and all(name in self._constants for name in others)
            and (node.op_type == "MatMul" or node.input[0] in self._moving)
        )

    def _carries(self, node: Any) -> bool:
        others = [n for n in node.input if n and n not in self._moving]
        return (
            node.op_type in _CARRYING
            and len(self._inputs(node)) == 1
            and (
                node.op_type not in {"Add", "Sub"}
                or all(name in self._constants for name in others)
            )
        )

    def _needed(self) -> set[str]:
        """Return the values that must not be too large."""
        exact = set[str]()
        for node in reversed(self._graph.node):
            carries = self._carries(node) and not exact & set(node.output)
            if not (carries or self._is_linear(node)):
                exact |= set(self._inputs(node))
        return exact

    def _taken_off(self) -> set[str]:
        """Return the values whose bits weights will take off for what is not linear."""
        taken = set[str]()
        for node in reversed(self._graph.node):
            made, is_linear = set(node.output), self._is_linear(node)
            passes = made & taken and (is_linear or self._carries(node))
            if passes or (is_linear and made & self._exact):
                taken |= set(self._inputs(node))
        return taken

    def _gains(self, node: Any, before: int) -> bool:
        if node.op_type not in _GAINING or node.output[0] in self._exact:
            return False
        if node.output[0] in self._taken:
            return before < _MOST_TAKEN
        return before < _MOST_TOLD or node.op_type != "Relu"

    def _before_outputs(self) -> set[str]:
        """Return the values of linear layers that nothing linear comes after."""
        late = {value.name for value in self._graph.output}
        for node in reversed(self._graph.node):
            if self._carries(node) and node.op_type not in _GAINING:
                late |= set(self._inputs(node)) if late & set(node.output) else set()
        return late

    def go(self) -> None:
        """Rewrite the nodes."""
        nodes = list(self._graph.node)
        for node in nodes:
            if not self._inputs(node):
                self._write.nodes.append(node)
                continue
            before = max(self.bits[name] for name in self._inputs(node))
            after = 0 if node.output[0] in self._exact else before
            if self._is_linear(node) and node.output[0] in self._last:
                after = max(0, after - _MOST_OFF)
            if self._gains(node, before):
                after += self._gain(node)
            else:
                self._scale(node, before, after)
                self._write.nodes.append(node)
            self.bits.update(dict.fromkeys(node.output, after))
        del self._graph.node[:]
        self._graph.node.extend(self._write.nodes)

    def _gain(self, node: Any) -> int:
        """Write a ReLU or an average as something larger; return by how many bits."""
        if node.op_type == "Relu":
            size = self._write("Abs", node.input[0])
            self._write("Add", node.input[0], size, out=node.output[0])
            return 1
        steps = _windows(node, self._pooled[node.output[0]])
        if steps is None:
            self._write.nodes.append(node)
            return 0
        value, area = node.input[0], 1
        for axis, starts in steps:
            area *= len(starts)
            parts = [
                self._write("Gather", value, self._write.constant(at), axis=axis)
                for at in starts
            ]
            value = parts[0]
            for part in parts[1:]:
                value = self._write("Add", value, part)
        self._write.nodes[-1].output[0] = node.output[0]
        return int(math.log2(area))

    def _scale(self, node: Any, before: int, after: int) -> None:
        """Take constants as often as what they meet is too large."""
        if self._is_linear(node):
            self._times(node, self._weights(node), 2.0 ** (after - before))
            self._times(node, range(2, len(node.input)), 2.0**after)
        elif node.op_type in {"Add", "Sub"} and after:
            self._times(node, range(2), 2.0**after)

    def _weights(self, node: Any) -> Iterable[int]:
        return [i for i, name in enumerate(node.input[:2]) if name not in self._moving]

    def _times(self, node: Any, places: Iterable[int], factor: float) -> None:
        for i in places:
            name = node.input[i]
            if factor != 1 and name in self._constants and name not in self._moving:
                scaled = self._constants[name] * np.float32(factor)
                node.input[i] = self._write.constant(scaled.astype(np.float32))


def _windows(node: Any, shape: tuple[int, ...]) -> list[tuple[int, list[Any]]] | None:
    """Return, for each axis, what each place of a window takes, for every window.

    None if the average is of windows that leave the image, or not of 2, 4, 8, … values.
    """
    import onnx

    given: Json = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    sizes = list(given["kernel_shape"])
    strides = list(given.get("strides", [1] * len(sizes)))
    area = math.prod(sizes)
    if (
        area < 2  # noqa: PLR2004 - nothing to sum
        or area & (area - 1)
        or any(given.get("pads", []))
        or given.get("ceil_mode", 0)
        or any(d != 1 for d in given.get("dilations", []))
        or given.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}
    ):
        return None
    axes = range(len(shape) - len(sizes), len(shape))
    steps = []
    for axis, size, stride in zip(axes, sizes, strides, strict=True):
        count = (shape[axis] - size) // stride + 1
        steps.append((axis, [np.arange(count) * stride + at for at in range(size)]))
    return steps
