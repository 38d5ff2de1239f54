"""Kernels, perceptrons and neighbours: the graph predicts what the library predicts."""

import joblib
import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, NuSVC, NuSVR

from privacy.activations import activate
from privacy.errors import FormatError
from privacy.publish.export import load_core

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:Converting a tensor",
)
IRIS, CANCER, DIABETES, DIGITS = (
    load(return_X_y=True)
    for load in (load_iris, load_breast_cancer, load_diabetes, load_digits)
)
TWO = (DIABETES[0], np.stack([DIABETES[1], DIABETES[1][::-1]], axis=1))
SMALL = {"hidden_layer_sizes": (5,), "max_iter": 100, "random_state": 0}
PROBABLE = {
    "perceptron": (MLPClassifier(**SMALL), CANCER),
    "perceptron, three classes": (MLPClassifier(**SMALL), IRIS),
    "perceptron, tanh": (MLPClassifier(**SMALL, activation="tanh"), IRIS),
    "perceptron, logistic": (MLPClassifier(**SMALL, activation="logistic"), IRIS),
    "neighbours": (KNeighborsClassifier(), CANCER),
    "neighbours, ten classes": (KNeighborsClassifier(3), DIGITS),
}
LABELS = {
    "machine": (SVC(), CANCER),
    "machine, three classes": (SVC(), IRIS),
    "machine, ten classes": (SVC(), (DIGITS[0][:400], DIGITS[1][:400])),
    "machine, polynomial": (SVC(kernel="poly", degree=2, coef0=1.0), IRIS),
    "machine, sigmoid": (SVC(kernel="sigmoid"), IRIS),
    "machine, nu": (NuSVC(nu=0.1, break_ties=True), IRIS),
}
VALUES = {
    "machine": (SVR(C=100.0), DIABETES),
    "machine, nu": (NuSVR(C=100.0), DIABETES),
    "perceptron": (MLPRegressor(**SMALL), DIABETES),
    "perceptron, two outputs": (MLPRegressor(**SMALL), TWO),
    "neighbours": (KNeighborsRegressor(), DIABETES),
    "neighbours, two outputs": (KNeighborsRegressor(), TWO),
}


@pytest.fixture
def fitted(tmp_path):
    """Return a function from a model and its data to its answers through the graph."""

    def fit(model, rows, truth):
        made = make_pipeline(StandardScaler(), model).fit(rows, truth)
        path = tmp_path / "model.joblib"
        joblib.dump(made, path)
        core = load_core(path, features=rows.shape[1], task="", activation="")
        # not the training rows: a row is at equal distance to no two neighbours
        rows = rows + np.random.default_rng(0).normal(0, 0.01, rows.shape) * rows.std(0)
        standard = ((rows - core.offset) / core.scale).astype(np.float32)
        (raw,) = onnxruntime.InferenceSession(core.onnx).run(None, {"input": standard})
        clear = core.clear(standard)
        share = np.isclose(raw, clear, rtol=1e-3, atol=1e-3).all(axis=1).mean()
        assert share == 1.0
        return made, rows, activate(clear, core.activation)

    return fit


@pytest.mark.parametrize("name", PROBABLE)
def test_probabilities_are_those_that_the_library_gives(fitted, name):
    model, (rows, truth) = PROBABLE[name]
    made, rows, answer = fitted(model, rows, truth)
    assert np.allclose(answer, made.predict_proba(rows), atol=1e-4)


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_those_that_the_library_gives(fitted, name):
    model, (rows, truth) = LABELS[name]
    made, rows, answer = fitted(model, rows, truth)
    made[-1].break_ties = False
    assert (made.classes_[answer.argmax(axis=1)] == made.predict(rows)).all()


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_that_the_library_gives(fitted, name):
    model, (rows, truth) = VALUES[name]
    made, rows, answer = fitted(model, rows, truth)
    expected = np.asarray(made.predict(rows)).reshape(answer.shape)
    assert np.allclose(answer, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (SVC(kernel=lambda a, b: a @ b.T), "with kernel"),
        (KNeighborsClassifier(weights="distance"), "weights other than"),
        (KNeighborsClassifier(p=1), "another metric"),
    ],
)
def test_what_has_no_graph_is_refused(tmp_path, model, why):
    from privacy.publish.estimators import from_estimator

    model.fit(*IRIS)
    with pytest.raises(FormatError, match=why) as caught:
        from_estimator(model, 4)
    assert caught.value.code == "unsupported-model"
