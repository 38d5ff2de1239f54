"""The models that proofs are measured on, trained here, each in seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zkml_networks
from privacy.bundle import Bundle
from privacy.encoding import Json
from privacy.modes import Mode
from privacy.publish import publish

Rows = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """A model file, its rows, and what a network does not say of itself."""

    model: Path
    data: Path
    task: str = ""
    activation: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure, and what is wanted of it.

    Attributes:
        kind: How it is trained; see `train`.
        load: Its data.
        wanted: How many times faster than EZKL's defaults.
        input: What proofs show of the input.
        last: Where its last sigmoid is: `inside` both circuits; `outside` the tuned
            one, since the client can apply it, but inside the default one; or in
            neither.
        tabular: It counts for the geometric mean.
    """

    kind: str
    load: Callable[[], Rows]
    wanted: float = 0.0
    input: str = "private"
    last: str = ""
    tabular: bool = False


def _cancer() -> Rows:
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)  # type: ignore[no-any-return]


def _wine() -> Rows:
    from sklearn.datasets import load_wine

    return load_wine(return_X_y=True)  # type: ignore[no-any-return]


def _diabetes() -> Rows:
    from sklearn.datasets import load_diabetes

    return load_diabetes(return_X_y=True)  # type: ignore[no-any-return]


def _digits() -> Rows:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16, y


def _images() -> Rows:
    """Return the digits, 28 by 28 pixels."""
    x, y = _digits()
    few = x[:600].reshape(-1, 8, 8)
    return np.pad(few.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2))).reshape(
        -1, 784
    ), y[:600]


MODELS = {
    "logistic regression": Subject(
        "logistic", _cancer, wanted=14, last="inside", tabular=True
    ),
    "logistic regression, sigmoid outside": Subject(
        "logistic", _cancer, wanted=40, last="outside", tabular=True
    ),
    "random forest 20x4": Subject("forest", _cancer, wanted=10, tabular=True),
    "mlp 30-64-32-1": Subject("mlp", _cancer, wanted=6, tabular=True),
    "mlp, hashed input": Subject(
        "mlp", _cancer, wanted=7.5, input="hashed", tabular=True
    ),
    "xgboost 20x3": Subject("xgboost", _cancer, wanted=5.8, tabular=True),
    "cnn 8x8": Subject("cnn", _digits, wanted=2.1),
    "transformer block 8x16": Subject("transformer", _digits, wanted=1.4),
    "lenet 28x28": Subject("lenet", _images, wanted=2.8),
    "unseen: wine, logistic": Subject("logistic", _wine),
    "unseen: digits, mlp": Subject("small-mlp", _digits),
    "unseen: diabetes, mlp": Subject("mlp-regressor", _diabetes),
}
"""The unseen ones took no part in making the tuner."""


def _estimator(kind: str) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from xgboost import XGBClassifier

    options: Any = {"random_state": 0, "max_iter": 60}
    made: dict[str, Callable[[], Any]] = {
        "logistic": LogisticRegression,
        "mlp": lambda: MLPClassifier((64, 32), **options),
        "small-mlp": lambda: MLPClassifier((32,), **options),
        "mlp-regressor": lambda: MLPRegressor((32, 16), **options),
    }
    if kind in made:
        return make_pipeline(StandardScaler(), made[kind]())
    if kind == "xgboost":
        return XGBClassifier(n_estimators=20, max_depth=3, random_state=0)
    return RandomForestClassifier(20, max_depth=4, random_state=0)


def train(subject: Subject, folder: Path) -> Trained:
    """Return a model, trained, as files in a folder."""
    x, y = subject.load()
    data = folder / "data.npy"
    np.save(data, x)
    if subject.kind in zkml_networks.KINDS:
        path = zkml_networks.train(subject.kind, x, y, folder)
        return Trained(path, data, "classification", "softmax")
    import warnings

    import joblib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        model = _estimator(subject.kind).fit(x, y)
    joblib.dump(model, folder / "model.joblib")
    return Trained(folder / "model.joblib", data)


def published(
    name: str, folder: Path, *, objective: str, hide: Sequence[str] = ()
) -> tuple[Bundle, Trained]:
    """Train a model of `MODELS` and publish its circuit, made for an objective."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = train(MODELS[name], folder)
    options: Json = {"objective": objective}
    bundle = publish(
        trained.model,
        trained.data,
        name="model",
        store=folder / "models",
        modes=[Mode.ZKML],
        task=trained.task,
        activation=trained.activation,
        options={Mode.ZKML: options | ({"hide": list(hide)} if hide else {})},
        home=folder / "home",
    )
    return bundle, trained


def with_activation(onnx: Path, activation: str, out: Path) -> None:
    """Write a model that ends in the sigmoid or softmax that it leaves to others."""
    import onnx as library

    model = library.load(str(onnx))
    kind = {"sigmoid": "Sigmoid", "softmax": "Softmax"}[activation]
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["raw" if n == last else n for n in node.output]
        node.input[:] = ["raw" if n == last else n for n in node.input]
    model.graph.node.append(library.helper.make_node(kind, ["raw"], [last]))
    library.save(model, str(out))
