"""Real models, published once a session by the real engine in a child process."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import ExtraTreesRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from privacy.bundle import (
    Bundle,
    Column,
    Manifest,
    ModePart,
    list_files,
    write_manifest,
)
from privacy.child import Child
from privacy.fhe import ClientKeys, FheClient
from privacy.publishing import PartRequest, PartResult


@dataclass(frozen=True)
class Published:
    """A model's FHE part as a bundle, and what its publisher knew."""

    bundle: Bundle
    request: PartRequest
    result: PartResult

    @property
    def client_json(self) -> bytes:
        return self.bundle.path("fhe/client.json").read_bytes()

    @property
    def held(self) -> Any:
        return np.load(self.request.held).astype(np.float64)

    @property
    def clear(self) -> Any:
        return np.load(self.request.clear)


def split(load):
    rows, truth = load(return_X_y=True)
    rows = StandardScaler().fit_transform(rows).astype(np.float32)
    return train_test_split(rows, truth, random_state=0)


@pytest.fixture(scope="session")
def data():
    return split(load_breast_cancer)


@pytest.fixture(scope="session")
def publisher():
    """One child process for all models: the engine takes nine seconds to import."""
    with Child("privacy.fhe.publish:handler") as child:
        yield child


@pytest.fixture(scope="session")
def publish_onnx(data, publisher, tmp_path_factory):
    """Return a function that publishes an ONNX core model."""

    def publish_it(name, onnx, clear, *, options, data=data, extra=None):
        root = tmp_path_factory.mktemp(name)
        (root / "core.onnx").write_bytes(onnx)
        request = make_request(root, data, clear, "softmax", options=options)
        return publish(root, publisher, replace(request, **(extra or {})))

    return publish_it


@pytest.fixture(scope="session")
def linear(data, publisher, tmp_path_factory) -> Published:
    model = LogisticRegression().fit(data[0], data[2])
    clear = model.decision_function(data[1]).reshape(-1, 1)
    root = tmp_path_factory.mktemp("linear")
    request = make_request(root, data, clear, "sigmoid", estimator=model)
    return publish(root, publisher, request)


@pytest.fixture(scope="session")
def tree(data, publisher, tmp_path_factory) -> Published:
    model = DecisionTreeClassifier(max_depth=2, random_state=0).fit(data[0], data[2])
    root = tmp_path_factory.mktemp("tree")
    clear = model.predict_proba(data[1])
    options = {"circuit": "concrete-ml", "n_bits": 4, "engine_rows": 2}
    request = make_request(root, data, clear, "none", estimator=model, options=options)
    return publish(root, publisher, request)


@pytest.fixture(scope="session")
def publish_trees(publisher, tmp_path_factory):
    """Return a function that publishes an estimator, trained here."""

    def publish_it(name, split, model, raw, *, activation, task, **options):
        model.fit(split[0], split[2])
        clear = np.asarray(raw(model, split[1]), np.float64).reshape(len(split[1]), -1)
        root = tmp_path_factory.mktemp(name)
        request = make_request(
            root, split, clear, activation, estimator=model, options=options
        )
        return publish(root, publisher, replace(request, task=task))

    return publish_it


@pytest.fixture(scope="session")
def forest(data, publisher, tmp_path_factory) -> Published:
    """A forest whose circuit is our own, with its splits hidden."""
    model = RandomForestClassifier(4, max_depth=3, random_state=0)
    model.fit(data[0], data[2])
    root = tmp_path_factory.mktemp("forest")
    clear = model.predict_proba(data[1])
    options = {"engine_rows": 2}
    request = make_request(root, data, clear, "none", estimator=model, options=options)
    return publish(root, publisher, request)


@pytest.fixture(scope="session")
def margins(publish_trees):
    """XGBoost with three classes, its splits revealed."""
    return publish_trees(
        "margins",
        split(load_wine),
        XGBClassifier(n_estimators=2, max_depth=2),
        lambda m, x: m.predict(x, output_margin=True),
        activation="softmax",
        task="classification",
        splits="revealed",
        engine_rows=1,
    )


@pytest.fixture(scope="session")
def lone_tree(publish_trees):
    """A tree with three classes, its splits revealed."""
    return publish_trees(
        "lone",
        split(load_wine),
        DecisionTreeClassifier(max_depth=4, random_state=0),
        lambda m, x: m.predict_proba(x),
        activation="none",
        task="classification",
        circuit="fhe-native",
        splits="revealed",
        engine_rows=1,
    )


@pytest.fixture(scope="session")
def regression(publish_trees):
    return publish_trees(
        "regression",
        split(load_diabetes),
        ExtraTreesRegressor(3, max_depth=3, random_state=0),
        lambda m, x: m.predict(x),
        activation="none",
        task="regression",
        circuit="fhe-native",
        engine_rows=1,
    )


@pytest.fixture(scope="session")
def forest_keys(forest) -> ClientKeys:
    return FheClient(forest.client_json).generate_keys()


@pytest.fixture(scope="session")
def linear_keys(linear) -> ClientKeys:
    return FheClient(linear.client_json).generate_keys()


@pytest.fixture(scope="session")
def tree_keys(tree) -> ClientKeys:
    return FheClient(tree.client_json).generate_keys()


def make_request(
    root, data, clear, activation, *, estimator=None, options=None
) -> PartRequest:
    """Write the arrays a publisher has and return the request that names them."""
    (root / "bundle" / "fhe").mkdir(parents=True)
    np.save(root / "calibration.npy", data[0])
    np.save(root / "held.npy", data[1])
    np.save(root / "clear.npy", np.asarray(clear, np.float64))
    path = root / "estimator.joblib" if estimator is not None else None
    if path:
        joblib.dump(estimator, path)
    return PartRequest(
        out=root / "bundle" / "fhe",
        onnx=root / "core.onnx",
        estimator=path,
        calibration=root / "calibration.npy",
        held=root / "held.npy",
        clear=root / "clear.npy",
        outputs=np.shape(clear)[1],
        activation=activation,
        task="classification",
        options=options or {},
    )


def publish(root: Path, publisher: Child, request: PartRequest) -> Published:
    """Publish and wrap the files in a bundle."""
    answer = publisher.call(request.to_json(), timeout_s=250)
    result = PartResult(**{**answer, "public": tuple(answer["public"])})
    assert result.available, result.reason
    part = ModePart(
        available=True,
        accuracy=result.accuracy,
        cost=result.cost,
        params=result.params,
    )
    public = frozenset(f"fhe/{name}" for name in result.public)
    width = np.load(request.held).shape[1]
    manifest = Manifest(
        name=root.name.rstrip("0123456789"),
        version="1",
        task=request.task,
        columns=tuple(Column(f"f{i}", -99.0, 99.0) for i in range(width)),
        outputs=request.outputs,
        activation=request.activation,
        classes=("a", "b", "c")[: max(2, request.outputs)]
        if request.task == "classification"
        else (),
        clear_accuracy={},
        modes={"fhe": part},
        files=list_files(root / "bundle", public),
        published_at=datetime.now(UTC).isoformat(),
        tool="tests",
    )
    bundle = write_manifest(root / "bundle", manifest)
    json.dumps(answer)  # plain JSON, through and through
    return Published(bundle=bundle, request=request, result=result)
