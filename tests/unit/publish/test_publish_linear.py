"""Linear models of every kind predict what their core and activation say."""

import joblib
import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PassiveAggressiveClassifier,
    Perceptron,
    PoissonRegressor,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.svm import SVC, LinearSVC, LinearSVR, NuSVC

from privacy.activations import activate
from privacy.errors import FormatError
from privacy.publish.export import load_core

IRIS, CANCER, DIABETES = (
    load(return_X_y=True) for load in (load_iris, load_breast_cancer, load_diabetes)
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:'multi_class' was deprecated:FutureWarning",
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:Liblinear failed to converge",
)
TWO = (DIABETES[0], np.stack([DIABETES[1], DIABETES[1][::-1]], axis=1))
PROBABLE = {
    "logistic": (LogisticRegression(), CANCER),
    "logistic, multinomial of two": (
        LogisticRegression(multi_class="multinomial"),
        CANCER,
    ),
    "logistic, three classes": (LogisticRegression(), IRIS),
    "logistic, one against the rest": (LogisticRegression(multi_class="ovr"), IRIS),
    "logistic, liblinear": (LogisticRegression(solver="liblinear"), IRIS),
    "descent, log loss": (SGDClassifier(loss="log_loss", random_state=0), CANCER),
    "descent, log loss, three": (SGDClassifier(loss="log_loss", random_state=0), IRIS),
    "discriminant": (LinearDiscriminantAnalysis(), CANCER),
    "discriminant, three classes": (LinearDiscriminantAnalysis(), IRIS),
    "wrapped, one against the rest": (OneVsRestClassifier(LogisticRegression()), IRIS),
}
LABELS = {
    "support vectors": (LinearSVC(dual=False), CANCER),
    "support vectors, three classes": (LinearSVC(dual=False), IRIS),
    "support vectors, kernel": (SVC(kernel="linear"), CANCER),
    "support vectors, kernel, three": (SVC(kernel="linear"), IRIS),
    "support vectors, nu": (NuSVC(kernel="linear"), IRIS),
    "descent, hinge": (SGDClassifier(random_state=0), IRIS),
    "perceptron": (Perceptron(), IRIS),
    "passive aggressive": (PassiveAggressiveClassifier(random_state=0), CANCER),
    "ridge": (RidgeClassifier(), CANCER),
    "ridge, three classes": (RidgeClassifier(), IRIS),
    "wrapped, one against the rest": (OneVsRestClassifier(LinearSVC(dual=False)), IRIS),
}
VALUES = {
    "linear": (LinearRegression(), DIABETES),
    "linear, two outputs": (LinearRegression(), TWO),
    "lasso": (Lasso(), DIABETES),
    "elastic net": (ElasticNet(), DIABETES),
    "bayesian ridge": (BayesianRidge(), DIABETES),
    "huber": (HuberRegressor(max_iter=1000), DIABETES),
    "descent": (SGDRegressor(random_state=0), DIABETES),
    "support vectors": (
        LinearSVR(dual=True, random_state=0, max_iter=100_000),
        DIABETES,
    ),
    "poisson": (PoissonRegressor(max_iter=1000), DIABETES),
    "gamma": (GammaRegressor(), DIABETES),
    "tweedie": (TweedieRegressor(power=1.5, max_iter=1000), DIABETES),
    "tweedie, identity link": (TweedieRegressor(power=0), DIABETES),
    "wrapped, two outputs": (MultiOutputRegressor(Lasso()), TWO),
}


@pytest.fixture
def fitted(tmp_path):
    """Return a function from a model and its data to its answers through the core."""

    def fit(model, rows, truth):
        made = make_pipeline(StandardScaler(), model).fit(rows, truth)
        joblib.dump(made, tmp_path / "model.joblib")
        core = load_core(
            tmp_path / "model.joblib",
            features=rows.shape[1],
            task="",
            activation="",
        )
        standard = ((rows - core.offset) / core.scale).astype(np.float32)
        (raw,) = onnxruntime.InferenceSession(core.onnx).run(None, {"input": standard})
        clear = core.clear(standard)
        assert np.allclose(raw, clear, rtol=1e-4, atol=1e-4)
        assert np.allclose(
            core.estimator.predict(standard).reshape(raw.shape), clear, atol=1e-6
        )
        return made, activate(raw, core.activation), core

    return fit


@pytest.mark.parametrize("name", PROBABLE)
def test_probabilities_are_those_that_the_library_gives(fitted, name):
    model, (rows, truth) = PROBABLE[name]
    made, answer, _ = fitted(model, rows, truth)
    assert np.allclose(answer, made.predict_proba(rows), atol=1e-4)


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_those_that_the_library_gives(fitted, name):
    model, (rows, truth) = LABELS[name]
    made, answer, core = fitted(model, rows, truth)
    assert core.activation in {"margin", "votes"}
    assert (made.classes_[answer.argmax(axis=1)] == made.predict(rows)).all()


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_that_the_library_gives(fitted, name):
    model, (rows, truth) = VALUES[name]
    made, answer, _ = fitted(model, rows, truth)
    expected = np.asarray(made.predict(rows)).reshape(answer.shape)
    assert np.allclose(answer, expected, rtol=1e-4)


def test_a_classifier_of_several_labels_a_row_is_refused(fitted):
    rows, truth = IRIS
    labels = np.stack([truth == 0, truth == 1], axis=1).astype(int)
    for model in (RidgeClassifier(), OneVsRestClassifier(LogisticRegression())):
        with pytest.raises(FormatError, match="several labels") as caught:
            fitted(model, scale(rows), labels)
        assert caught.value.code == "unsupported-model"
