"""Write convolutions as products of matrices.

A circuit multiplies a convolution out, cell by cell, but checks a product of matrices
at one random point (Freivalds), which takes as many cells as the matrices have entries.
Picking the patches costs nothing: it only says which cell is meant.
"""

from pathlib import Path
from typing import Any

import numpy as np

from privacy.encoding import Json
from privacy.zkml.onnx_prep import inner_values, prune

_DIMENSIONS = 4


def convolve(path: Path, features: int) -> None:
    """Rewrite, in place, the two-dimensional convolutions that gain by it.

    Left as they are: those with groups, of several images, with weights that are no
    constants, or whose padding depends on the input.

    Args:
        path: The ONNX model, batch of one.
        features: Width of its input.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    if not convolutions:
        return
    zeros = np.zeros(features)
    given = inner_values(model, [node.input[0] for node in convolutions])(zeros)
    for number, (node, image) in enumerate(zip(convolutions, given, strict=True)):
        weights = constants.get(node.input[1])
        if weights is None or (weights.ndim, len(image)) != (_DIMENSIONS, 1):
            continue
        patches = _patches(image.shape, weights.shape, _attributes(node))
        if patches is None:
            continue
        at = list(graph.node).index(node)
        graph.node.remove(node)
        made = _product(graph, node, patches, weights, f"convolve_{number}")
        for offset, other in enumerate(made):
            graph.node.insert(at + offset, other)
    prune(graph)
    onnx.save(model, str(path))


def _attributes(node: Any) -> Json:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _patches(shape: tuple[int, ...], kernel: tuple[int, ...], attributes: Json) -> Any:
    """Return the cell that each patch holds at each place of the kernel.

    Returns:
        Whole numbers, shape (output height, output width, channels * kernel height *
        kernel width); the number after the last cell's is padding. None if this is a
        convolution that stays.
    """
    _, channels, height, width = shape
    outputs, _, *extent = kernel
    if attributes.get("group", 1) != 1 or attributes.get("auto_pad", b"NOTSET") not in {
        b"NOTSET",
        b"VALID",
    }:
        return None
    pads = attributes.get("pads", [0, 0, 0, 0])
    strides = attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    cells: Any = np.full(
        (channels, height + pads[0] + pads[2], width + pads[1] + pads[3]),
        channels * height * width,
    )
    cells[:, pads[0] : pads[0] + height, pads[1] : pads[1] + width] = np.arange(
        channels * height * width
    ).reshape(channels, height, width)
    reach = tuple((e - 1) * d + 1 for e, d in zip(extent, dilations, strict=True))
    view: Any = np.lib.stride_tricks.sliding_window_view  # its types know one axis only
    windows = view(cells, reach, axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    found = windows.transpose(1, 2, 0, 3, 4)
    found = found.reshape(*found.shape[:2], -1)
    places, size = found.shape[0] * found.shape[1], found.shape[2]
    gains = places * size * outputs > places * size + size * outputs + places * outputs
    return found if gains else None


def _product(
    graph: Any, node: Any, patches: Any, weights: Any, prefix: str
) -> list[Any]:
    """Return the nodes that stand for a convolution; their constants join the graph."""
    from onnx import helper, numpy_helper

    def constant(what: str, array: Any) -> str:
        name = f"{prefix}_{what}"
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    rows, columns, size = patches.shape
    outputs = len(weights)
    line = constant("line", (-1,))
    image = constant("image", (rows * columns, size))
    zero = constant("zero", np.zeros(1, np.float32))
    matrix = weights.reshape(outputs, size).T.astype(np.float32)
    steps: list[tuple[str, list[str], Json]] = [
        ("Reshape", [line], {}),
        ("Concat", [zero], {"axis": 0}),
        ("Gather", [constant("index", patches.ravel())], {"axis": 0}),
        ("Reshape", [image], {}),
        ("MatMul", [constant("weights", matrix)], {}),
        *(("Add", [bias], {}) for bias in node.input[2:] if bias),
        ("Transpose", [], {"perm": [1, 0]}),
        ("Reshape", [constant("shape", (1, outputs, rows, columns))], {}),
    ]
    made, value = list[Any](), node.input[0]
    for number, (operator, others, attributes) in enumerate(steps):
        name = node.output[0] if number == len(steps) - 1 else f"{prefix}_{number}"
        made.append(helper.make_node(operator, [value, *others], [name], **attributes))
        value = name
    return made
