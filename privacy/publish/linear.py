"""Linear models of every kind: one matrix, one bias, an activation of the client's.

The engines get them as a `LinearRegression` whose predictions are the raw outputs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from privacy.publish.core import Expressed, columns_of, unsupported
from privacy.publish.kernels import pairwise

_MARGINS = frozenset(
    {
        "LinearSVC",
        "PassiveAggressiveClassifier",
        "Perceptron",
        "RidgeClassifier",
        "RidgeClassifierCV",
    }
)


def express_linear(core: Any) -> Expressed | None:
    """Return a linear model, or several behind a wrapper; None if it is not linear."""
    parts = [core]
    if type(core).__name__ in {"MultiOutputRegressor", "OneVsRestClassifier"}:
        parts = list(core.estimators_)
    if not all(hasattr(part, "coef_") for part in parts):
        return None
    weights = np.concatenate([np.atleast_2d(_dense(p.coef_)) for p in parts])
    bias = np.concatenate(
        [np.broadcast_to(p.intercept_, len(np.atleast_2d(p.coef_))) for p in parts]
    )
    if hasattr(core, "classes_"):
        raw, activation = _classifier(core, len(weights))
    else:
        raw, activation = _regressor(core)
    factor = 1.0
    if activation == "softmax" and len(weights) == 1:  # softmax of (-margin, margin)
        factor, activation = 2.0, "sigmoid"
    return Expressed(
        graph=_layer(factor * weights, factor * bias),
        clear=columns_of(lambda rows: factor * np.asarray(raw(rows))),
        activation=activation,
        estimator=_regression(factor * weights, factor * bias),
    )


def _dense(coef: Any) -> Any:
    return np.asarray(coef.toarray() if hasattr(coef, "toarray") else coef, np.float64)


def _classifier(core: Any, rows: int) -> tuple[Callable[[Any], Any], str]:
    """Return the function of a classifier's raw outputs, and its activation."""
    name, raw = type(core).__name__, core.decision_function
    if getattr(core, "multilabel_", False) or np.ndim(core.predict(_one(core))) != 1:
        raise unsupported(f"{name} with several labels a row")
    if name in {"SVC", "NuSVC"}:
        return pairwise(core), "margin" if rows == 1 else "votes"
    if name in _MARGINS:
        return raw, "margin"
    if name == "SGDClassifier":
        return raw, _one_vs_rest(rows) if core.loss == "log_loss" else "margin"
    if name == "LinearDiscriminantAnalysis":
        return raw, "sigmoid" if rows == 1 else "softmax"
    if name in {"LogisticRegression", "LogisticRegressionCV"}:
        return raw, _one_vs_rest(rows) if _is_ovr(core) else "softmax"
    if name == "OneVsRestClassifier" and rows > 1:
        probable = hasattr(core, "predict_proba")
        return raw, "ovr" if probable and _are_sigmoids(core) else "margin"
    raise unsupported(name)


def _one(core: Any) -> Any:
    return np.zeros((1, core.n_features_in_))


def _one_vs_rest(rows: int) -> str:
    return "sigmoid" if rows == 1 else "ovr"


def _is_ovr(core: Any) -> bool:
    """Return whether scikit-learn trained one sigmoid a class, not one softmax."""
    if core.multi_class in {"auto", "deprecated"}:
        return len(core.classes_) == 2 or core.solver in {  # noqa: PLR2004
            "liblinear",
            "newton-cholesky",
        }
    return bool(core.multi_class == "ovr")


def _are_sigmoids(core: Any) -> bool:
    """Return whether every part's probability is the sigmoid of its margin."""
    return all(_classifier(part, 1)[1] == "sigmoid" for part in core.estimators_)


def _regressor(core: Any) -> tuple[Callable[[Any], Any], str]:
    """Return the function of a regressor's raw outputs, and its activation."""
    loss = getattr(core, "_base_loss", None)
    link = type(loss.link).__name__ if loss is not None else "IdentityLink"
    if link == "IdentityLink":
        return core.predict, "none"
    if link == "LogLink":
        return lambda rows: np.log(core.predict(rows)), "exp"
    raise unsupported(f"{type(core).__name__} with a {link}")


def _layer(weights: Any, bias: Any) -> Any:
    import torch

    layer = torch.nn.Linear(weights.shape[1], weights.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def _regression(weights: Any, bias: Any) -> Any:
    from sklearn.linear_model import LinearRegression

    made = LinearRegression()
    made.coef_, made.intercept_ = weights, bias
    made.n_features_in_ = weights.shape[1]
    return made
