"""Networks given as TorchScript or ONNX."""

from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import FormatError
from privacy.publish.core import Core, to_onnx
from privacy.publish.endings import without_ending
from privacy.quantized import (
    QuantizedNetwork,
    brevitas_domain,
    is_qonnx,
    standard_onnx,
)


def from_torchscript(path: Path, features: int, task: str, activation: str) -> Core:
    """Return the core of a network that `torch.jit.save` wrote.

    Raises:
        FormatError: It is none, or does not take rows of so many features.
    """
    import torch

    try:
        module = torch.jit.load(str(path), map_location="cpu").eval().float()
    except Exception as exc:
        msg = f"{path.name} is not TorchScript: write it with torch.jit.save"
        raise FormatError(msg, code="unloadable-model") from exc

    def clear(rows: Any) -> Any:
        with torch.no_grad():
            out = module(torch.tensor(np.asarray(rows, np.float32)))
        return out.detach().double().numpy().reshape(len(rows), -1)

    try:
        onnx = to_onnx(module, features)
        outputs = clear(np.zeros((2, features))).shape[1]
    except Exception as exc:
        msg = (
            f"the network does not take rows of {features} features: "
            f"{type(exc).__name__}"
        )
        raise FormatError(msg, code="wrong-feature-count") from exc
    return _network(onnx, clear, features, outputs, task, activation)


def from_onnx(raw: bytes, features: int, task: str, activation: str) -> Core:
    """Return the core of an ONNX or QONNX model of one float input, (rows, features).

    Raises:
        FormatError: It is none.
    """
    import onnx
    import onnxruntime

    estimator = QuantizedNetwork(brevitas_domain(raw)) if is_qonnx(raw) else None
    raw = standard_onnx(raw) if estimator else raw
    try:
        model = onnx.load_from_string(raw)
        session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    except Exception as exc:
        msg = f"not a usable ONNX model: {type(exc).__name__}"
        raise FormatError(msg, code="unloadable-model") from exc
    inputs = session.get_inputs()
    floats = [o for o in session.get_outputs() if o.type == "tensor(float)"]
    if len(inputs) != 1 or len(inputs[0].shape) != 2 or not floats:  # noqa: PLR2004
        msg = "the ONNX model must take one float tensor (rows, features)"
        raise FormatError(msg, code="unsupported-model")
    if inputs[0].shape[1] not in {features, None} and isinstance(
        inputs[0].shape[1], int
    ):
        msg = (
            f"the model takes {inputs[0].shape[1]} features, the calibration data "
            f"has {features}"
        )
        raise FormatError(msg, code="wrong-feature-count")
    given, kept = inputs[0].name, floats[-1].name

    def clear(rows: Any) -> Any:  # a row at a time: the batch may be fixed to 1
        out = [
            session.run([kept], {given: np.asarray(r, np.float32).reshape(1, -1)})[0]
            for r in rows
        ]
        return np.asarray(out, dtype=np.float64).reshape(len(rows), -1)

    outputs = clear(np.zeros((1, features))).shape[1]
    renamed = _only_output(model, given, kept, features, outputs)
    return _network(renamed, clear, features, outputs, task, activation, estimator)


def _only_output(
    model: Any, given: str, kept: str, features: int, outputs: int
) -> bytes:
    """Keep one input and one output, renamed, with a free number of rows."""
    from onnx import TensorProto, helper

    graph = model.graph
    for node in graph.node:
        node.input[:] = ["input" if n == given else n for n in node.input]
        node.output[:] = ["output" if n == kept else n for n in node.output]
    for field, name, width in (
        (graph.input, "input", features),
        (graph.output, "output", outputs),
    ):
        del field[:]
        shape = ["rows", width]
        field.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    del graph.value_info[:]
    serialised: bytes = model.SerializeToString()
    return serialised


def _network(
    onnx: bytes,
    clear: Any,
    features: int,
    outputs: int,
    task: str,
    activation: str,
    estimator: Any = None,
) -> Core:
    if task == "classification" and activation in {"", "none"}:
        ending = ""
        if estimator is None:  # else its own integers are compiled, to the end
            onnx, clear, ending = without_ending(
                onnx, clear, features=features, outputs=outputs
            )
        one = "sigmoid" if outputs == 1 else "softmax"
        activation = ending or activation or one
    return Core(
        onnx=onnx,
        clear=clear,
        offset=np.zeros(features),
        scale=np.ones(features),
        activation=activation or "none",
        task=task or "raw",
        estimator=estimator,
    )
