"""The exported ONNX graph decides exactly as the library does, ties included."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier, XGBRegressor

from privacy.activations import activate
from privacy.errors import BackendError, FormatError
from privacy.fhe.options import Options
from privacy.fhe.tune.candidates import Subject, by_concrete_ml, trees
from privacy.publish.export import load_core
from privacy.publish.prepare import prepare
from privacy.trees import ensemble_of, paths
from privacy.zkml.onnx_prep import fix_batch
from privacy.zkml.read_trees import read_trees

IRIS, CANCER, DIABETES = (
    load(return_X_y=True) for load in (load_iris, load_breast_cancer, load_diabetes)
)
SCALED = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
CASES = {
    "logistic": (SCALED, CANCER),
    "logistic, three classes": (SCALED, IRIS),
    "three scalers": (
        make_pipeline(
            MinMaxScaler((1, 3)), RobustScaler(), MaxAbsScaler(), LogisticRegression()
        ),
        CANCER,
    ),
    "linear": (make_pipeline(StandardScaler(), LinearRegression()), DIABETES),
    "ridge": (Ridge(), DIABETES),
    "tree": (DecisionTreeClassifier(max_depth=5), CANCER),
    "stump without a split": (DecisionTreeClassifier(min_samples_split=10_000), IRIS),
    "forest": (RandomForestClassifier(10, max_depth=4, random_state=0), IRIS),
    "extra trees": (ExtraTreesClassifier(5, max_depth=4, random_state=0), IRIS),
    "forest regressor": (RandomForestRegressor(5, max_depth=3), DIABETES),
    "boosting": (GradientBoostingClassifier(n_estimators=5), CANCER),
    "boosting, three classes": (GradientBoostingClassifier(n_estimators=3), IRIS),
    "boosting, exponential loss": (
        GradientBoostingClassifier(n_estimators=5, loss="exponential"),
        CANCER,
    ),
    "boosting from zero": (
        GradientBoostingRegressor(n_estimators=5, init="zero"),
        DIABETES,
    ),
    "boosting regressor": (GradientBoostingRegressor(n_estimators=5), DIABETES),
    "xgboost": (XGBClassifier(n_estimators=8, max_depth=3), CANCER),
    "xgboost, three classes": (XGBClassifier(n_estimators=4, max_depth=3), IRIS),
    "xgboost, trees side by side": (
        XGBClassifier(n_estimators=2, max_depth=2, num_parallel_tree=2, subsample=0.5),
        IRIS,
    ),
    "xgboost, thresholds of the data": (
        XGBClassifier(n_estimators=4, max_depth=3, tree_method="hist"),
        IRIS,
    ),
    "xgboost regressor": (XGBRegressor(n_estimators=5, max_depth=3), DIABETES),
}


@pytest.fixture
def export(tmp_path):
    joblib = pytest.importorskip("joblib")

    def run(model, rows):
        path = tmp_path / "model.joblib"
        joblib.dump(model, path)
        return load_core(path, features=rows.shape[1], task="", activation="")

    return run


@pytest.mark.filterwarnings("ignore")  # skl2onnx-free, but torch's exporter warns
@pytest.mark.parametrize("name", CASES)
def test_the_export_computes_what_the_model_computes(export, name):
    model, (rows, truth) = CASES[name]
    model.fit(rows, truth)
    core = export(model, rows)
    standard = (rows - core.offset) / core.scale
    session = onnxruntime.InferenceSession(core.onnx)
    ours = session.run(None, {"input": standard.astype(np.float32)})[0]
    clear = core.clear(standard)
    if core.task == "classification":
        expected = model.predict_proba(rows)
        assert core.classes == tuple(str(c) for c in model.classes_)
    else:
        expected = np.asarray(model.predict(rows)).reshape(len(rows), -1)
    assert np.allclose(activate(clear, core.activation), expected, atol=1e-6)
    assert np.allclose(ours, clear, rtol=1e-5, atol=1e-4)
    assert (activate(ours, core.activation).argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (make_pipeline(PolynomialFeatures(), LinearRegression()), "unsupported-step"),
        (GaussianNB(), "unsupported-model"),
        (XGBClassifier(n_estimators=2, booster="dart"), "unsupported-model"),
        (XGBClassifier(n_estimators=2, booster="gblinear"), "unsupported-model"),
        (XGBClassifier(n_estimators=2, missing=0.0), "unsupported-model"),
        (
            GradientBoostingClassifier(n_estimators=2, init=LogisticRegression()),
            "unsupported-model",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # logistic regression does not converge
def test_what_cannot_be_expressed_is_refused(export, model, code):
    rows, truth = IRIS
    model.fit(rows, truth)
    with pytest.raises(FormatError) as caught:
        export(model, rows)
    assert caught.value.code == code


@pytest.mark.filterwarnings("ignore")  # XGBoost's own
def test_boosting_that_stopped_early_leaves_out_the_trees_after_its_best(export):
    rows, truth = IRIS
    model = XGBClassifier(n_estimators=30, max_depth=2, early_stopping_rounds=2)
    model.fit(rows[::2], truth[::2], eval_set=[(rows[1::2], truth[1::2])], verbose=0)
    assert 3 * (model.best_iteration + 1) < len(model.get_booster().get_dump())
    core = export(model, rows)
    session = onnxruntime.InferenceSession(core.onnx)
    ours = session.run(None, {"input": rows.astype(np.float32)})[0]
    found = activate(ours, core.activation)
    assert np.allclose(found, model.predict_proba(rows), atol=1e-6)


@pytest.mark.parametrize(("unit", "offset"), [(1e-6, 0.0), (1.0, 1e6)])
def test_an_export_that_differs_is_refused_whatever_its_targets_are(
    export, tmp_path, monkeypatch, unit, offset
):
    rows, truth = DIABETES
    targets = offset + unit * truth
    core = export(RandomForestRegressor(2, max_depth=3).fit(rows, targets), rows)
    other = replace(core, clear=lambda x: 1.1 * core.clear(x) - 0.1 * offset)
    monkeypatch.setattr("privacy.publish.prepare.load_core", lambda *_, **__: other)
    np.save(tmp_path / "rows.npy", rows)
    request = {"model": "", "data": str(tmp_path / "rows.npy"), "out": str(tmp_path)}
    request |= {"label": None, "task": "", "activation": ""}
    with pytest.raises(FormatError, match="differs from the model by"):
        prepare({**request, "names": [], "classes": []}, lambda _: None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_leaf_that_is_no_number_is_refused(value):
    model = GradientBoostingRegressor(n_estimators=2, max_depth=1).fit(*DIABETES)
    model.estimators_[1, 0].tree_.value[2] = value
    with pytest.raises(FormatError, match="not a finite number"):
        ensemble_of(model)


@pytest.mark.filterwarnings("ignore")  # XGBoost's own
def test_columns_of_integers_and_of_truth_are_compared_as_numbers(export):
    """XGBoost's own dump rounds their thresholds, or leaves them out."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"count": rng.integers(0, 9, 90), "flag": rng.random(90) < 0.5}
    )
    truth = (frame["count"] > 4) & frame["flag"]
    model = XGBClassifier(n_estimators=3, max_depth=2).fit(frame, truth)
    rows = np.array(
        [[c + part, f] for c in range(9) for part in (0, 0.6) for f in (0, 1)]
    )
    core = export(model, rows)
    session = onnxruntime.InferenceSession(core.onnx)
    ours = session.run(None, {"input": rows.astype(np.float32)})[0]
    data = xgboost.DMatrix(
        rows, feature_names=["count", "flag"], feature_types=["int", "i"]
    )
    expected = model.get_booster().predict(data, output_margin=True)
    assert np.allclose(ours[:, 0], expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # XGBoost's own
@pytest.mark.parametrize(
    ("told", "base"),
    [
        ("5E-1", (0.5, 0.5, 0.5)),
        ("[5E-1]", (0.5, 0.5, 0.5)),
        ("[1E-1,-2E0,3E-1]", (0.1, -2.0, 0.3)),
        ("[1E-1,2E-1]", None),
        ("[nan]", None),
        ("none", None),
    ],
)
def test_a_base_score_is_one_number_or_one_for_each_class(monkeypatch, told, base):
    """XGBoost writes a list since 3.1."""
    model = XGBClassifier(n_estimators=2, max_depth=2).fit(*IRIS)
    config = json.loads(model.get_booster().save_config())
    config["learner"]["learner_model_param"]["base_score"] = told
    monkeypatch.setattr(xgboost.Booster, "save_config", lambda _: json.dumps(config))
    if base:
        assert ensemble_of(model).base == base
        return
    with pytest.raises(FormatError, match="a number for each output"):
        ensemble_of(model)


LEVELS = 210


@pytest.fixture(scope="module")
def chain():
    """A tree that takes apart one row at each level, and its rows."""
    rows = np.arange(LEVELS + 1.0)[:, None]
    model = DecisionTreeClassifier().fit(rows, np.arange(LEVELS + 1) % 2)
    assert model.get_depth() == LEVELS
    return model, rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns
def test_a_tree_too_deep_for_circuits_is_exported_as_it_predicts(
    export, chain, tmp_path
):
    model, rows = chain
    core = export(model, rows)
    session = onnxruntime.InferenceSession(core.onnx)
    ours = session.run(None, {"input": rows.astype(np.float32)})[0]
    assert np.array_equal(ours, model.predict_proba(rows))
    (tmp_path / "core.onnx").write_bytes(core.onnx)
    fix_batch(tmp_path / "core.onnx", tmp_path / "one.onnx")
    with pytest.raises(FormatError, match="has 210 levels, at most 200"):
        read_trees(tmp_path / "one.onnx")


def test_a_tree_too_deep_for_circuits_is_refused_under_fhe(chain):
    subject = Subject(None, chain[0], chain[1], Options())
    for kind in (trees, by_concrete_ml):
        with pytest.raises(BackendError, match="has 210 levels, at most 200"):
            list(kind(subject))


def test_trees_of_any_depth_are_read():
    rows = np.arange(1501.0)[:, None]
    model = DecisionTreeClassifier().fit(rows, np.arange(1501) % 2)
    (tree,) = ensemble_of(model).trees
    assert max(len(steps) for steps, _ in paths(tree)) == model.get_depth() == 1500


def test_another_width_is_refused(export):
    rows, truth = IRIS
    with pytest.raises(FormatError, match="takes 4 features"):
        export(DecisionTreeClassifier().fit(rows, truth), rows[:, :3])


@pytest.mark.parametrize(
    "name", ["model.joblib", "model.skops", "model.pt", "model.onnx", "model.xyz"]
)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_is_no_model_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(FormatError):
        load_core(tmp_path / name, features=4, task="", activation="")


class Surprise:
    """A type that no model needs."""


def test_a_skops_file_is_loaded_only_if_it_runs_no_code(tmp_path):
    skops = pytest.importorskip("skops.io")
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*IRIS)
    skops.dump(model, tmp_path / "good.skops")
    good = load_core(tmp_path / "good.skops", features=4, task="", activation="")
    assert good.classes == ("0", "1", "2")
    model.surprise = Surprise()
    skops.dump(model, tmp_path / "bad.skops")
    with pytest.raises(FormatError) as caught:
        load_core(tmp_path / "bad.skops", features=4, task="", activation="")
    assert caught.value.code == "unsafe-model"
    assert "Surprise" in caught.value.message
