"""Networks trained with quantization, as QONNX: data, no code.

QONNX is ONNX with one operator more, `Quant`, which rounds its input to so many bits;
Brevitas writes it. FHE engines compile it as it stands, exactly as trained. For all
others `standard_onnx` spells `Quant` out in standard operators.

Source: https://github.com/fastmachinelearning/qonnx (operator `Quant`)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from privacy.errors import FormatError

_DOMAINS = frozenset({"onnx.brevitas", "qonnx.custom_op.general"})
_LAYERS = frozenset({"Quant", "BipolarQuant", "Trunc"})
_MAX_BITS = 32


class QuantizedNetwork:
    """A network trained with quantization, in the form of a fitted estimator.

    Attributes:
        qonnx: The graph; float32 (rows, features) to (rows, outputs).
        n_features_in_: Width of an input row.
        classes_: Class labels, for a classifier only: its outputs are logits.
    """

    def __init__(self, qonnx: bytes, *, classes: Sequence[Any] | None = None) -> None:
        """Keep the graph.

        Raises:
            FormatError: It is not QONNX of one input with a fixed width.
        """
        model = _load(qonnx)
        shape = model.graph.input[0].type.tensor_type.shape.dim
        if not is_qonnx(qonnx) or len(shape) != 2:  # noqa: PLR2004 - rows, features
            msg = "the network is not QONNX that takes (rows, features)"
            raise FormatError(msg, code="unsupported-model")
        self.qonnx = qonnx
        self.n_features_in_ = int(shape[1].dim_value)
        if classes is not None:
            self.classes_ = np.asarray(classes)


def is_qonnx(raw: bytes) -> bool:
    """Return whether an ONNX graph has quantization layers."""
    return any(_is_quantizer(node) for node in _load(raw).graph.node)


def brevitas_domain(raw: bytes) -> bytes:
    """Return a QONNX graph with its layers under Brevitas's name for them."""
    model = _load(raw)
    for node in model.graph.node:
        if _is_quantizer(node):
            node.domain = "onnx.brevitas"
    return bytes(model.SerializeToString())


def standard_onnx(raw: bytes) -> bytes:
    """Return a QONNX graph in standard operators, its quantized weights folded.

    Raises:
        FormatError: A layer's bits or steps are not constant, or it rounds otherwise
            than to the nearest.
    """
    from onnx import numpy_helper

    model = _load(raw)
    graph = model.graph
    known = _constants(graph)
    nodes: list[Any] = []
    for node in graph.node:
        if not _is_quantizer(node):
            nodes.append(node)
            continue
        layer = _layer(node, known)
        weights = known.get(node.input[0])
        if weights is None:
            nodes += _spelt_out(node, layer, graph)
        else:
            known[node.output[0]] = folded = _round(weights, layer)
            tensor = numpy_helper.from_array(folded, node.output[0])
            graph.initializer.append(tensor)
    used = {name for node in nodes for name in node.input}
    _replace(graph.node, nodes)
    _replace(graph.initializer, [t for t in graph.initializer if t.name in used])
    _replace(
        model.opset_import, [o for o in model.opset_import if o.domain not in _DOMAINS]
    )
    _replace(graph.value_info, [])
    return bytes(model.SerializeToString())


def _replace(field: Any, kept: Sequence[Any]) -> None:
    """Give a repeated field of a graph other members."""
    del field[:]
    field.extend(kept)


def _load(raw: bytes) -> Any:
    import onnx

    try:
        return onnx.load_from_string(raw)
    except Exception as exc:
        msg = f"not a usable ONNX model: {type(exc).__name__}"
        raise FormatError(msg, code="unloadable-model") from exc


def _is_quantizer(node: Any) -> bool:
    return node.domain in _DOMAINS and node.op_type in _LAYERS


def _constants(graph: Any) -> dict[str, Any]:
    from onnx import helper, numpy_helper

    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            value = helper.get_attribute_value(node.attribute[0])
            known[node.output[0]] = numpy_helper.to_array(value)
    return known


def _layer(node: Any, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a layer's step, zero point and least and greatest integer."""
    from onnx import helper

    said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    parameters = [known.get(name) for name in node.input[1:4]]
    rounding = said.get("rounding_mode", b"ROUND")
    if node.op_type != "Quant" or rounding != b"ROUND" or len(parameters) != 3:  # noqa: PLR2004
        raise _unusable(f"{node.op_type} with rounding {rounding.decode()[:20]}")
    if any(p is None for p in parameters):
        raise _unusable("Quant with steps or bits that are not constant")
    scale, zero_point, bits = (np.asarray(p, np.float32) for p in parameters)
    width = float(bits.max())
    if bits.size != 1 or not 1 <= width <= _MAX_BITS or not (scale > 0).all():
        raise _unusable("Quant with impossible steps or bits")
    signed, narrow = bool(said.get("signed", 1)), bool(said.get("narrow", 0))
    if narrow and not signed:  # Brevitas's exporter says so of what is the reverse
        signed, narrow = True, False
    low = -(2.0 ** (width - 1)) + narrow if signed else 0.0
    high = 2.0 ** (width - 1) - 1 if signed else 2.0**width - 1
    return {"scale": scale, "zero_point": zero_point, "low": low, "high": high}


def _round(values: Any, layer: Mapping[str, Any]) -> Any:
    scale, zero_point = layer["scale"], layer["zero_point"]
    whole = np.clip(np.rint(values / scale + zero_point), layer["low"], layer["high"])
    return ((whole - zero_point) * scale).astype(np.float32)


def _spelt_out(node: Any, layer: Mapping[str, Any], graph: Any) -> list[Any]:
    """Return `(clip(round(x / scale + zero_point)) - zero_point) * scale` as nodes."""
    from onnx import helper, numpy_helper

    out = node.output[0]
    for name, value in layer.items():
        array = np.asarray(value, np.float32)
        graph.initializer.append(numpy_helper.from_array(array, f"{out}/{name}"))
    shifted = bool(np.any(layer["zero_point"]))
    steps = [
        ("Div", ("scale",)),
        *([("Add", ("zero_point",))] if shifted else []),
        ("Round", ()),
        ("Clip", ("low", "high")),
        *([("Sub", ("zero_point",))] if shifted else []),
        ("Mul", ("scale",)),
    ]
    found, value = [], node.input[0]
    for i, (operator, names) in enumerate(steps):
        result = out if i == len(steps) - 1 else f"{out}/{i}"
        inputs = [value, *(f"{out}/{name}" for name in names)]
        found.append(helper.make_node(operator, inputs, [result]))
        value = result
    return found


def _unusable(what: str) -> FormatError:
    msg = f"{what} is not supported in a quantized network"
    return FormatError(msg, code="unsupported-model")
