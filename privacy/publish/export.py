"""From a trained model to its core: standardisation apart, one ONNX graph, raw outputs.

Runs in a child process: it loads the publisher's own model file, scikit-learn, PyTorch.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import FormatError, UnavailableError
from privacy.publish.trees import tree_module
from privacy.trees import ensemble_of

_SIGMOID_FAMILIES = {
    "LogisticRegression",
    "LogisticRegressionCV",
    "LinearSVC",
    "SGDClassifier",
    "Perceptron",
    "RidgeClassifier",
}
_OPSET = 14
_SKOPS_TYPES = re.compile(
    r"numpy\.(u?int|float)(8|16|32|64)|(sklearn\.)?_loss\.[\w.]+"
    r"|xgboost\.(core\.Booster|sklearn\.XGB(Classifier|Regressor))"
)


@dataclass(frozen=True, slots=True)
class Core:
    """A model as every mode computes it, on standardised features.

    Attributes:
        estimator: The scikit-learn or XGBoost estimator without its scalers, or None.
        onnx: The serialised ONNX graph: `input` float32 (rows, features) to `output`
            (rows, outputs), standard operators only.
        clear: The original model: standardised float64 rows to raw outputs.
        offset: Per feature, as `scale`; see `privacy.bundle.Column`.
        activation: What turns raw outputs into probabilities.
        task: `classification`, `regression` or `raw`.
        classes: The estimator's own class labels as text, or empty.
    """

    estimator: Any
    onnx: bytes
    clear: Any
    offset: Any
    scale: Any
    activation: str
    task: str
    classes: tuple[str, ...]


def load_core(path: Path, *, features: int, task: str, activation: str) -> Core:
    """Return the core of a model file: `.joblib`, `.pkl`, `.skops`, `.pt` or `.onnx`.

    A `.joblib` or `.pkl` file runs code when it is loaded: open only your own.

    Args:
        path: The model; `.pt` is TorchScript (`torch.jit.save`).
        features: Columns of the calibration data.
        task: The publisher's word for networks; empty to infer it.
        activation: Likewise.

    Raises:
        FormatError: Not such a file, or a model that cannot be expressed.
    """
    if path.suffix == ".onnx":
        return _from_onnx(path.read_bytes(), features, task, activation)
    if path.suffix in {".pt", ".pth"}:
        return _from_torchscript(path, features, task, activation)
    return _from_estimator(_load_estimator(path), features)


def _load_estimator(path: Path) -> Any:
    if path.suffix == ".skops":
        return _load_skops(path)
    if path.suffix not in {".joblib", ".pkl"}:
        msg = (
            f"{path.name}: cannot tell what this is from {path.suffix!r}; "
            "give .joblib, .pkl, .skops, .pt (TorchScript) or .onnx"
        )
        raise FormatError(msg, code="unknown-model-format")
    import joblib

    try:
        return joblib.load(path)
    except Exception as exc:
        msg = f"{path.name} cannot be loaded: {type(exc).__name__}: {exc}"
        raise FormatError(msg, code="unloadable-model") from exc


def _load_skops(path: Path) -> Any:
    """Return a model from a file that runs no code, unless it names unknown types."""
    try:
        import skops.io
    except ImportError as exc:
        msg = "skops is not installed: pip install skops, or give a .joblib file"
        raise UnavailableError(msg, code="engine-missing") from exc
    try:
        types = skops.io.get_untrusted_types(file=path)
        unknown = [name for name in types if not _SKOPS_TYPES.fullmatch(name)]
        if not unknown:
            return skops.io.load(path, trusted=types)
    except Exception as exc:
        msg = f"{path.name} cannot be loaded: {type(exc).__name__}"
        raise FormatError(msg, code="unloadable-model") from exc
    msg = f"{path.name} holds types that could run code: {', '.join(unknown[:5])}"
    raise FormatError(msg, code="unsafe-model")


def _from_estimator(model: Any, features: int) -> Core:
    core, offset, scale = _split_scalers(model, features)
    wanted = getattr(core, "n_features_in_", features)
    if wanted != features:
        msg = f"the model takes {wanted} features, the calibration data has {features}"
        raise FormatError(msg, code="wrong-feature-count")
    is_classifier = hasattr(core, "classes_")
    classes = tuple(str(c) for c in core.classes_) if is_classifier else ()
    if hasattr(core, "coef_"):
        module, clear, activation = _linear(core, is_classifier)
    else:
        module, clear, activation = _trees(core, is_classifier)
    return Core(
        estimator=core,
        onnx=_export(module, features),
        clear=clear,
        offset=offset,
        scale=scale,
        activation=activation,
        task="classification" if is_classifier else "regression",
        classes=classes,
    )


def _split_scalers(model: Any, features: int) -> tuple[Any, Any, Any]:
    """Return the last step of a pipeline and the scaling the steps before it do."""
    offset, scale = np.zeros(features), np.ones(features)
    steps = [step for _, step in getattr(model, "steps", [("", model)])]
    for step in steps[:-1]:
        if step is None or step == "passthrough":
            continue
        name = type(step).__name__
        ones = np.ones(features)
        if name in {"StandardScaler", "RobustScaler"}:
            center = step.mean_ if name == "StandardScaler" else step.center_
            mine, factor = center, step.scale_
        elif name == "MinMaxScaler" and not step.clip:
            mine, factor = -step.min_ / step.scale_, 1.0 / step.scale_
        elif name == "MaxAbsScaler":
            mine, factor = None, step.scale_
        else:
            msg = (
                f"pipeline step {name} is not a per-feature scaling: apply it before "
                "publishing, or publish the model as ONNX"
            )
            raise FormatError(msg, code="unsupported-step")
        # (((x - offset) / scale) - mine) / factor, as one step
        offset = offset + scale * (0 * ones if mine is None else mine)
        scale = scale * (ones if factor is None else factor)
    return steps[-1], offset, scale


def _linear(core: Any, is_classifier: bool) -> tuple[Any, Any, str]:  # noqa: FBT001
    import torch

    name = type(core).__name__
    if is_classifier and name not in _SIGMOID_FAMILIES:
        raise FormatError(f"{name} is not supported yet", code="unsupported-model")
    if not is_classifier and any(
        hasattr(core, extra) for extra in ("_base_loss", "link")
    ):
        raise FormatError(f"{name} is not supported yet", code="unsupported-model")
    weights = np.atleast_2d(np.asarray(core.coef_, dtype=np.float64))
    bias = np.broadcast_to(np.asarray(core.intercept_, np.float64), len(weights))
    layer = torch.nn.Linear(weights.shape[1], weights.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
        layer.bias.copy_(torch.tensor(bias.copy()))
    raw = core.decision_function if is_classifier else core.predict

    def clear(rows: Any) -> Any:
        out = np.asarray(raw(rows), dtype=np.float64)
        return out.reshape(len(rows), -1)

    if not is_classifier:
        return layer, clear, "none"
    return layer, clear, "sigmoid" if len(weights) == 1 else _multiclass(core)


def _multiclass(core: Any) -> str:
    name, solver = getattr(core, "multi_class", "auto"), getattr(core, "solver", "")
    if name == "ovr" or solver == "liblinear" or not hasattr(core, "multi_class"):
        msg = "one-vs-rest logistic regression: train it with multi_class='multinomial'"
        raise FormatError(msg, code="unsupported-model")
    return "softmax"


def _trees(core: Any, is_classifier: bool) -> tuple[Any, Any, str]:  # noqa: FBT001
    ensemble = ensemble_of(core)
    if ensemble is None:
        msg = (
            f"{type(core).__name__} is not supported: publish a linear model, a tree "
            "ensemble, TorchScript (.pt) or ONNX (.onnx)"
        )
        raise FormatError(msg, code="unsupported-model")
    if ensemble.activation == "none":
        raw = core.predict_proba if is_classifier else core.predict
    elif hasattr(core, "decision_function"):
        raw = core.decision_function
    else:

        def raw(rows: Any) -> Any:
            return core.predict(rows, output_margin=True)

    def clear(rows: Any) -> Any:
        out = np.asarray(raw(np.asarray(rows, np.float32)), dtype=np.float64)
        return out.reshape(len(rows), -1)

    return tree_module(ensemble, core.n_features_in_), clear, ensemble.activation


def _export(module: Any, features: int) -> bytes:
    import io

    import torch

    buffer = io.BytesIO()
    torch.onnx.export(
        module.eval() if hasattr(module, "eval") else module,
        torch.zeros(1, features),
        buffer,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "rows"}, "output": {0: "rows"}},
        opset_version=_OPSET,
    )
    return buffer.getvalue()


def _from_torchscript(path: Path, features: int, task: str, activation: str) -> Core:
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
        onnx = _export(module, features)
        outputs = clear(np.zeros((2, features))).shape[1]
    except Exception as exc:
        msg = (
            f"the network does not take rows of {features} features: "
            f"{type(exc).__name__}"
        )
        raise FormatError(msg, code="wrong-feature-count") from exc
    return _network(onnx, clear, features, outputs, task, activation)


def _from_onnx(raw: bytes, features: int, task: str, activation: str) -> Core:
    import onnx
    import onnxruntime

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
    return _network(renamed, clear, features, outputs, task, activation)


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
    onnx: bytes, clear: Any, features: int, outputs: int, task: str, activation: str
) -> Core:
    if not activation:
        is_classifier = task == "classification"
        one = "sigmoid" if outputs == 1 else "softmax"
        activation = one if is_classifier else "none"
    return Core(
        estimator=None,
        onnx=onnx,
        clear=clear,
        offset=np.zeros(features),
        scale=np.ones(features),
        activation=activation,
        task=task or "raw",
        classes=(),
    )
