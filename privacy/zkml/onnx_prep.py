"""Shape an ONNX model for circuits: one input row of fixed size, nothing optional."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from privacy.errors import BackendError, FormatError


def fix_batch(source: Path, target: Path) -> int:
    """Write the model with a batch of one, and return its number of features.

    Raises:
        FormatError: Not one float32 input of shape (rows, features), or not one output.
    """
    import onnx

    model = onnx.load(str(source))
    graph = model.graph
    inputs = _inputs(graph)
    if len(inputs) != 1 or len(graph.output) != 1:
        msg = (
            f"the model has {len(inputs)} inputs and {len(graph.output)} outputs, "
            "expected one of each"
        )
        raise FormatError(msg, code="unsupported-model")
    features = _features(inputs[0])
    del graph.input[:]
    graph.input.extend(inputs)  # weights listed as inputs could be overridden
    for value in (graph.input[0], graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_value = 1  # also clears the symbolic name
    del graph.value_info[:]  # shapes inferred for another batch
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as exc:
        msg = "the model is not valid ONNX, or has operators outside the standard"
        raise FormatError(msg, code="unsupported-model") from exc
    onnx.save(model, str(target))
    return features


def input_name(graph: Any) -> str:
    """Return the name of the one input that `fix_batch` left."""
    return str(_inputs(graph)[0].name)


def constants(graph: Any) -> dict[str, Any]:
    """Return the arrays of a graph's weights and constants by name."""
    from onnx import numpy_helper

    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                weights[node.output[0]] = numpy_helper.to_array(attribute.t)
    return weights


def moving(graph: Any) -> set[str]:
    """Return the values that the input decides; of fixed shapes, none is among them."""
    found = {input_name(graph)}
    for node in graph.node:
        if node.op_type != "Shape" and found & _taken(node):
            found |= set(filter(None, node.output))
    return found


def _taken(node: Any) -> set[str]:
    """Return the values that a node takes, those of its branches and loops included."""
    inner = [g for a in node.attribute for g in (a.g, *a.graphs)]
    return set(node.input).union(*(_taken(n) for g in inner for n in g.node))


def prune(graph: Any) -> None:
    """Remove weights that no node takes any more."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _inputs(graph: Any) -> list[Any]:
    weights = {tensor.name for tensor in graph.initializer}
    return [i for i in graph.input if i.name not in weights]


def open_session(model: bytes) -> tuple[Any, str]:
    """Return an ONNX Runtime session on the CPU and the name of its input.

    Raises:
        BackendError: ONNX Runtime does not take the model.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(
            model, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # its errors share no other base
        msg = "ONNX Runtime could not load the model"
        raise BackendError(msg) from exc
    return session, session.get_inputs()[0].name


def inner_values(model: Any, names: Sequence[str]) -> Callable[[Any], list[Any]]:
    """Return a function from a row to values inside a model of batch one.

    Raises:
        BackendError: ONNX Runtime does not take the model.
    """
    import numpy as np
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name for value in [*model.graph.input, *model.graph.output]}
    wanted = [onnx.ValueInfoProto(name=n) for n in dict.fromkeys(names)]
    shown.graph.output.extend(w for w in wanted if w.name not in known)
    session, given = open_session(shown.SerializeToString())
    asked = [name for name in names if name != given]

    def forward(row: Any) -> list[Any]:
        fed = np.asarray(row, dtype=np.float32)[None]
        made = dict(zip(asked, session.run(asked, {given: fed}), strict=True))
        return [np.asarray(made.get(name, fed)) for name in names]

    return forward


def _features(value: Any) -> int:
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    float32 = 1
    if tensor.elem_type != float32 or len(dims) != 2 or dims[1].dim_value < 1:  # noqa: PLR2004
        msg = "the model's input is not float32 of shape (rows, features)"
        raise FormatError(msg, code="unsupported-model")
    return int(dims[1].dim_value)
