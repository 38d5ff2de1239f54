"""A model's core: standardisation apart, one ONNX graph, raw outputs."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.errors import FormatError

OPSET = 14


@dataclass(frozen=True, slots=True)
class Core:
    """A model as every mode computes it, on standardised features.

    Attributes:
        onnx: The serialised ONNX graph: `input` float32 (rows, features) to `output`
            (rows, outputs), standard operators only.
        clear: The original model: standardised float64 rows to raw outputs.
        offset: Per feature, as `scale`; see `privacy.bundle.Column`.
        activation: See `privacy.activations`.
        task: `classification`, `regression` or `raw`.
        classes: The estimator's own class labels as text, or empty.
        estimator: The scikit-learn or XGBoost estimator without its scalers, where an
            engine compiles it better than the graph; a linear model of any kind is a
            `LinearRegression` whose predictions are the raw outputs, and a network
            trained with quantization a `QuantizedNetwork`. Or None.
        ties: The graph may decide a few rows otherwise, where several answers are as
            right as the library's.
    """

    onnx: bytes
    clear: Callable[[Any], Any]
    offset: Any
    scale: Any
    activation: str
    task: str
    classes: tuple[str, ...] = ()
    estimator: Any = None
    ties: bool = False


@dataclass(frozen=True, slots=True)
class Expressed:
    """An estimator in terms that every mode knows; see `Core` for the members.

    Attributes:
        graph: A torch module from (rows, features) to (rows, outputs), or ONNX.
    """

    graph: Any
    clear: Callable[[Any], Any]
    activation: str
    estimator: Any = None
    ties: bool = False


def columns_of(raw: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that gives float64 (rows, outputs) whatever `raw` gives."""

    def clear(rows: Any) -> Any:
        return np.asarray(raw(rows), dtype=np.float64).reshape(len(rows), -1)

    return clear


def to_onnx(module: Any, features: int) -> bytes:
    """Return a torch module as ONNX with a free number of rows."""
    import torch

    buffer = io.BytesIO()
    torch.onnx.export(
        module.eval(),
        torch.zeros(1, features),
        buffer,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "rows"}, "output": {0: "rows"}},
        opset_version=OPSET,
    )
    return buffer.getvalue()


def unsupported(what: str, why: str = "") -> FormatError:
    """Return the error that says what cannot be published."""
    msg = f"{what} is not supported{': ' * bool(why)}{why}"
    return FormatError(msg, code="unsupported-model")
