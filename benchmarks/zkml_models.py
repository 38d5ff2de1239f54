"""The models that proofs are measured on, trained here, each in a second or two."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Trained:
    """A model file, its rows, and what a network does not say of itself."""

    model: Path
    data: Path
    task: str = ""
    activation: str = ""


def _cancer() -> tuple[Any, Any]:
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)


def _wine() -> tuple[Any, Any]:
    from sklearn.datasets import load_wine

    return load_wine(return_X_y=True)


def _diabetes() -> tuple[Any, Any]:
    from sklearn.datasets import load_diabetes

    return load_diabetes(return_X_y=True)


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16, y


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


MODELS: dict[str, tuple[str, Callable[[], tuple[Any, Any]], str]] = {
    "logistic regression": ("logistic", _cancer, "private"),
    "mlp 30-64-32-1": ("mlp", _cancer, "private"),
    "mlp, hashed input": ("mlp", _cancer, "hashed"),
    "xgboost 20x3": ("xgboost", _cancer, "private"),
    "random forest 20x4": ("forest", _cancer, "private"),
    "cnn 8x8": ("cnn", _digits, "private"),
    "wine, logistic": ("logistic", _wine, "private"),
    "digits, mlp": ("small-mlp", _digits, "private"),
    "diabetes, mlp": ("mlp-regressor", _diabetes, "private"),
}
"""Kind, data, and what proofs show of the input; the last three are new to everyone."""


def train(name: str, folder: Path) -> Trained:
    """Return a model of `MODELS`, trained, as files in a folder."""
    kind, load, _ = MODELS[name]
    x, y = load()
    data = folder / "data.npy"
    np.save(data, x)
    if kind == "cnn":
        return Trained(_cnn(x, y, folder), data, "classification", "softmax")
    import joblib

    joblib.dump(_estimator(kind).fit(x, y), folder / "model.joblib")
    return Trained(folder / "model.joblib", data)


def _cnn(x: Any, y: Any, folder: Path) -> Path:
    import torch

    torch.manual_seed(0)
    rows, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    net = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8, 8)),
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(rows), labels).backward()
        optimizer.step()
    torch.jit.save(torch.jit.trace(net.eval(), rows[:2]), str(folder / "model.pt"))
    return folder / "model.pt"
