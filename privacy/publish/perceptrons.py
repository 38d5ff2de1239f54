"""Multi-layer perceptrons of scikit-learn."""

from collections.abc import Callable
from typing import Any

import numpy as np

from privacy.publish.core import Expressed, columns_of, unsupported


def express_perceptron(core: Any) -> Expressed | None:
    """Return an `MLPClassifier` or an `MLPRegressor`; None if it is neither."""
    if type(core).__name__ not in {"MLPClassifier", "MLPRegressor"}:
        return None
    is_classifier = hasattr(core, "classes_")
    wide = len(core.coefs_[-1][0]) > 1
    if is_classifier and wide and core.out_activation_ == "logistic":
        raise unsupported("MLPClassifier with several labels a row")
    activation = ("softmax" if wide else "sigmoid") if is_classifier else "none"
    return Expressed(
        graph=_module(core),
        clear=columns_of(lambda rows: _forward(core, np.asarray(rows, np.float64))),
        activation=activation,
    )


def _forward(core: Any, values: Any) -> Any:
    """Return raw outputs; scikit-learn itself gives them only after an activation."""
    hidden: dict[str, Callable[[Any], Any]] = {
        "identity": lambda v: v,
        "relu": lambda v: np.maximum(v, 0),
        "tanh": np.tanh,
        "logistic": lambda v: 1.0 / (1.0 + np.exp(-np.clip(v, -700, 700))),
    }
    for i, (weights, bias) in enumerate(
        zip(core.coefs_, core.intercepts_, strict=True)
    ):
        values = (hidden[core.activation](values) if i else values) @ weights + bias
    return values


def _module(core: Any) -> Any:
    import torch

    hidden = {
        "identity": torch.nn.Identity,
        "relu": torch.nn.ReLU,
        "tanh": torch.nn.Tanh,
        "logistic": torch.nn.Sigmoid,
    }[core.activation]
    layers: list[Any] = []
    for weights, bias in zip(core.coefs_, core.intercepts_, strict=True):
        layers += [hidden()] if layers else []
        layer = torch.nn.Linear(*weights.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(weights.T))
            layer.bias.copy_(torch.tensor(bias))
        layers.append(layer)
    return torch.nn.Sequential(*layers)
