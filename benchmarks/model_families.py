"""Every family of models, published for every mode: what docs/models.md says.

`python -m benchmarks model-families` prints its table anew; the tests hold the document
against `FAMILIES`, and `FAMILIES` against what publishing finds.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.bundle import Bundle, ModePart
from privacy.child import Children
from privacy.encoding import Json
from privacy.modes import Mode
from privacy.publish import publish

Fitted = tuple[Any, Any]
"""A fitted model and the raw rows it was trained on."""


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table.

    Attributes:
        make: Trains a model of the family.
        modes: Where it is served.
        slow: Its publishing takes more than a few seconds.
        task: For networks.
    """

    name: str
    make: Callable[[], Fitted]
    modes: str = "fhe zkml tee"
    slow: bool = False
    task: str = ""

    def publish(self, store: Path, modes: Sequence[Mode], children: Children) -> Bundle:
        """Return the family's model, published for some modes."""
        model, rows = self.make()
        return publish(
            model,
            rows,
            name="model",
            store=store,
            modes=modes,
            task=self.task,
            home=store / "home",
            options={Mode.FHE: {"engine_rows": 2}},
            run=children.run,
        )


def _fitted(load: str, model: Any, *, outputs: int = 1, rows: int = 0) -> Fitted:
    """Return a model behind a scaler, trained on one of scikit-learn's data sets."""
    from sklearn import datasets
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data, truth = getattr(datasets, f"load_{load}")(return_X_y=True)
    if outputs > 1:
        truth = np.stack([truth, *[np.roll(truth, i) for i in range(1, outputs)]], 1)
    few = np.random.default_rng(0).permutation(len(data))[: rows or len(data)]
    return make_pipeline(StandardScaler(), model).fit(data[few], truth[few]), data


def _linear(name: str, **choices: Any) -> Callable[[], Fitted]:
    from sklearn import linear_model

    regressor = "Regressor" in name or name in {"Ridge", "LinearRegression"}
    outputs = choices.pop("outputs", 1)
    data = "diabetes" if regressor else "iris"
    return lambda: _fitted(
        data, getattr(linear_model, name)(**choices), outputs=outputs
    )


def _machine(
    name: str, data: str, *, rows: int = 0, **how: Any
) -> Callable[[], Fitted]:
    from sklearn import svm

    return lambda: _fitted(data, getattr(svm, name)(**how), rows=rows)


def _discriminant() -> Fitted:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return _fitted("iris", LinearDiscriminantAnalysis())


def _perceptron(name: str, data: str) -> Callable[[], Fitted]:
    from sklearn import neural_network

    how = {"hidden_layer_sizes": (6,), "max_iter": 2000, "random_state": 0}
    return lambda: _fitted(data, getattr(neural_network, name)(**how))


def _neighbours(name: str, data: str) -> Callable[[], Fitted]:
    from sklearn import neighbors

    return lambda: _fitted(data, getattr(neighbors, name)(3), rows=30)


def _tree(name: str, data: str = "iris") -> Callable[[], Fitted]:
    from sklearn import tree

    return lambda: _fitted(data, getattr(tree, name)(max_depth=3, random_state=0))


def _forest(name: str, data: str = "iris", **how: Any) -> Callable[[], Fitted]:
    from sklearn import ensemble

    sizes = {"n_estimators": 5, "max_depth": 3, "random_state": 0}
    return lambda: _fitted(data, getattr(ensemble, name)(**sizes, **how))


def _xgboost() -> Fitted:
    from xgboost import XGBClassifier

    return _fitted("iris", XGBClassifier(n_estimators=5, max_depth=3))


def _trained(net: Any, rows: Any, truth: Any, *, steps: int = 100) -> Any:
    """Return a network after some steps of training."""
    import torch

    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        made = net(torch.tensor(rows))
        torch.nn.functional.cross_entropy(made, torch.tensor(truth)).backward()
        optimizer.step()
    return net.eval()


def _iris() -> tuple[Any, Any]:
    from sklearn import datasets

    rows, truth = datasets.load_iris(return_X_y=True)
    return ((rows - rows.mean(0)) / rows.std(0)).astype(np.float32), truth


def _torch() -> Fitted:
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)]
    return _trained(torch.nn.Sequential(*layers), *(data := _iris())), data[0]


def _convolution() -> Fitted:
    """Return a network on the digits' 8 by 8 pixels; a row is reshaped inside it."""
    import torch
    from sklearn import datasets

    torch.manual_seed(0)
    rows, truth = datasets.load_digits(return_X_y=True)
    rows = (rows / 16).astype(np.float32)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(1, 4, 3, stride=2)
            self.dense = torch.nn.Linear(36, 10)

        def forward(self, x: Any) -> Any:
            seen = torch.relu(self.convolution(x.reshape(-1, 1, 8, 8)))
            return self.dense(seen.reshape(-1, 36))

    return _trained(Net(), rows, truth), rows


def _brevitas() -> Fitted:
    import brevitas.nn as qnn
    import torch

    torch.manual_seed(0)
    kind = {"weight_bit_width": 3, "bias_quant": None}
    net = torch.nn.Sequential(
        qnn.QuantIdentity(bit_width=4, return_quant_tensor=True),
        qnn.QuantLinear(4, 8, bias=True, **kind),
        qnn.QuantReLU(bit_width=3, return_quant_tensor=True),
        qnn.QuantLinear(8, 3, bias=True, **kind),
    )
    return _trained(net, *(data := _iris()), steps=300), data[0]


def _built_in() -> Fitted:
    import torch
    from concrete.ml.sklearn import NeuralNetClassifier
    from sklearn import datasets
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(0)
    rows, truth = datasets.load_iris(return_X_y=True)
    bits = {"module__n_w_bits": 3, "module__n_a_bits": 4}
    net = NeuralNetClassifier(
        module__n_layers=2,
        module__n_hidden_neurons_multiplier=2,
        max_epochs=60,
        verbose=0,
        **bits,
    )
    rows = rows.astype(np.float32)
    return make_pipeline(StandardScaler(), net).fit(rows, truth), rows


_NET = {"slow": True, "task": "classification"}
FAMILIES = (
    Family("logistic regression", _linear("LogisticRegression")),
    Family(
        "logistic regression, one-vs-rest",
        _linear("LogisticRegression", solver="liblinear"),
    ),
    Family("linear discriminant analysis", _discriminant, slow=True),
    Family(
        "SGD classifier, log loss",
        _linear("SGDClassifier", loss="log_loss", random_state=0),
        slow=True,
    ),
    Family("SGD classifier, hinge loss", _linear("SGDClassifier", random_state=0)),
    Family("perceptron", _linear("Perceptron"), slow=True),
    Family("ridge classifier", _linear("RidgeClassifier"), slow=True),
    Family("linear SVM", _machine("LinearSVC", "iris", dual=False), slow=True),
    Family("SVM, linear kernel", _machine("SVC", "iris", kernel="linear")),
    Family("linear, ridge, lasso, elastic net", _linear("Ridge"), slow=True),
    Family("several outputs", _linear("LinearRegression", outputs=2)),
    Family("Poisson, gamma, Tweedie", _linear("PoissonRegressor", max_iter=1000)),
    Family("SGD regressor", _linear("SGDRegressor", random_state=0), slow=True),
    Family(
        "linear SVR", _machine("LinearSVR", "diabetes", dual=True, C=10.0), slow=True
    ),
    Family("decision tree", _tree("DecisionTreeClassifier"), slow=True),
    Family("random forest", _forest("RandomForestClassifier"), slow=True),
    Family("gradient boosting", _forest("GradientBoostingClassifier"), slow=True),
    Family("XGBoost", _xgboost, slow=True),
    Family(
        "nearest neighbours",
        _neighbours("KNeighborsClassifier", "iris"),
        modes="zkml tee",
        slow=True,
    ),
    Family(
        "nearest neighbours, regression",
        _neighbours("KNeighborsRegressor", "diabetes"),
        modes="zkml tee",
        slow=True,
    ),
    Family(
        "SVM, RBF kernel",
        _machine("SVC", "iris", rows=50),
        modes="zkml tee",
        slow=True,
    ),
    Family("multi-layer perceptron", _perceptron("MLPClassifier", "iris"), slow=True),
    Family(
        "multi-layer perceptron, regression",
        _perceptron("MLPRegressor", "diabetes"),
        slow=True,
    ),
    Family("PyTorch or ONNX network", _torch, **_NET),
    Family("convolutional network", _convolution, **_NET),
    Family("Brevitas network", _brevitas, **_NET),
    Family("NeuralNetClassifier of Concrete-ML", _built_in, slow=True),
)


MODES = (Mode.FHE, Mode.ZKML, Mode.TEE)
"""Mode tee+zkml serves what the two others of its name both serve."""


def measure(names: Sequence[str] = ()) -> list[Json]:
    """Publish every family, or those named, and return what each mode found."""
    found = []
    with Children() as children, tempfile.TemporaryDirectory() as folder:
        for i, family in enumerate(FAMILIES):
            if names and family.name not in names:
                continue
            bundle = family.publish(Path(folder) / str(i), MODES, children)
            parts = bundle.manifest.modes
            found.append({"family": family.name} | {m: _cell(parts[m]) for m in MODES})
            print("|", " | ".join(found[-1].values()), "|", flush=True)
    return found


def _cell(part: ModePart) -> str:
    """Return what the table says of one mode."""
    if not part.available:
        return f"no: {part.reason[:200]}"
    cost = part.cost
    words = [f"yes: {cost['latency_s'] * 1e3:.3g} ms"]
    if cost.get("keys_bytes"):
        words.append(f"keys {cost['keys_bytes'] / 1e6:.0f} MB")
    if "proof_bytes" in cost:
        words.append(f"proof {cost['proof_bytes'] / 1e3:.1f} kB")
    if "label_agreement" in part.accuracy:
        words.append(f"labels {part.accuracy['label_agreement']:.0%}")
    else:
        words.append(f"error {part.accuracy['max_error']:.2g}")
    return ", ".join(words)
