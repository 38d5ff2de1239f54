"""Trained tree ensembles as plain nodes, from scikit-learn and XGBoost.

Leaf values are in the units of raw outputs. Thresholds are rounded so that float32
comparisons decide as the library does: scikit-learn compares float32 features with
float64 thresholds (`x <= t`), XGBoost with float32 ones (`x < t`).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.errors import FormatError


@dataclass(frozen=True, slots=True)
class Node:
    """A comparison `x[feature] <= threshold`: left if it holds; or a leaf's values."""

    feature: int = -1
    threshold: float = 0.0
    left: "Node | None" = None
    right: "Node | None" = None
    value: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Trees whose leaf values are summed with `base`; outputs are raw."""

    trees: tuple[Node, ...]
    base: tuple[float, ...]
    activation: str


def ensemble_of(core: Any) -> Ensemble | None:
    """Return the trees of a scikit-learn or XGBoost estimator; None if it has none."""
    name = type(core).__name__
    readers: dict[str, Callable[[Any], Ensemble]] = {
        "DecisionTreeClassifier": _averaged,
        "DecisionTreeRegressor": _averaged,
        "RandomForestClassifier": _averaged,
        "RandomForestRegressor": _averaged,
        "ExtraTreesClassifier": _averaged,
        "ExtraTreesRegressor": _averaged,
        "GradientBoostingClassifier": _gradient_boosting,
        "GradientBoostingRegressor": _gradient_boosting,
        "XGBClassifier": _xgboost,
        "XGBRegressor": _xgboost,
    }
    return readers[name](core) if name in readers else None


def _averaged(core: Any) -> Ensemble:
    estimators = getattr(core, "estimators_", [core])
    if getattr(core, "n_outputs_", 1) != 1:
        raise FormatError("multi-output trees are not supported yet")
    is_classifier = hasattr(core, "classes_")

    def leaf(values: Any) -> tuple[float, ...]:
        share = values[0] / values[0].sum() if is_classifier else values[0]
        return tuple(float(v) / len(estimators) for v in share)

    trees = tuple(_from_sklearn(e.tree_, leaf) for e in estimators)
    width = len(core.classes_) if is_classifier else 1
    return Ensemble(trees, (0.0,) * width, "none")


def _gradient_boosting(core: Any) -> Ensemble:
    """Sum of `learning_rate * tree` for each class, on top of the initial estimate."""
    width = core.estimators_.shape[1]
    rows = np.zeros((1, core.n_features_in_))
    base = np.atleast_1d(core._raw_predict_init(rows)[0])  # noqa: SLF001 - no public way
    trees = []
    for stage in core.estimators_:
        for k, estimator in enumerate(stage):

            def leaf(values: Any, k: int = k) -> tuple[float, ...]:
                value = core.learning_rate * float(values[0][0])
                return tuple(value if i == k else 0.0 for i in range(width))

            trees.append(_from_sklearn(estimator.tree_, leaf))
    is_classifier = hasattr(core, "classes_")
    activation = ("sigmoid" if width == 1 else "softmax") if is_classifier else "none"
    return Ensemble(tuple(trees), tuple(float(b) for b in base), activation)


def _from_sklearn(tree: Any, leaf: Callable[[Any], tuple[float, ...]]) -> Node:
    def build(i: int) -> Node:
        if tree.children_left[i] < 0:
            return Node(value=leaf(tree.value[i]))
        return Node(
            feature=int(tree.feature[i]),
            threshold=float32_at_most(float(tree.threshold[i])),
            left=build(tree.children_left[i]),
            right=build(tree.children_right[i]),
        )

    return build(0)


def float32_at_most(value: float) -> float:
    """Return the largest float32 that is not above a number."""
    near = np.float32(value)
    return float(near if near <= value else np.nextafter(near, np.float32(-np.inf)))


def _xgboost(core: Any) -> Ensemble:
    booster = core.get_booster()
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    is_classifier = hasattr(core, "classes_") and hasattr(core, "predict_proba")
    known = {"binary:logistic", "multi:softprob", "reg:squarederror"}
    if objective not in known:
        msg = f"XGBoost objective {objective} is not one of {', '.join(sorted(known))}"
        raise FormatError(msg, code="unsupported-model")
    width = len(core.classes_) if objective == "multi:softprob" else 1
    dumps = booster.get_dump(dump_format="json")
    columns = booster.feature_names or [f"f{i}" for i in range(core.n_features_in_)]
    trees = tuple(
        _from_xgboost(json.loads(text), columns, i % width, width)
        for i, text in enumerate(dumps)
    )
    config = json.loads(booster.save_config())["learner"]["learner_model_param"]
    base = float(config["base_score"])
    if objective == "binary:logistic":
        base = float(np.log(base / (1.0 - base)))
    activation = ("sigmoid" if width == 1 else "softmax") if is_classifier else "none"
    return Ensemble(trees, (base,) * width, activation)


def _from_xgboost(tree: Any, columns: list[str], at: int, width: int) -> Node:
    if "leaf" in tree:
        value = float(tree["leaf"])
        return Node(value=tuple(value if i == at else 0.0 for i in range(width)))
    children = {c["nodeid"]: c for c in tree["children"]}
    threshold = np.float32(tree["split_condition"])
    return Node(
        feature=columns.index(tree["split"]),
        threshold=float(np.nextafter(threshold, np.float32(-np.inf))),  # x < t
        left=_from_xgboost(children[tree["yes"]], columns, at, width),
        right=_from_xgboost(children[tree["no"]], columns, at, width),
    )


Step = tuple[int, float, bool]
"""A feature, a threshold, and whether the comparison `x <= threshold` holds."""


def paths(
    node: Node, steps: tuple[Step, ...]
) -> Iterator[tuple[tuple[Step, ...], tuple[float, ...]]]:
    """Yield the steps to each leaf, and its values."""
    if node.left is None or node.right is None:
        yield steps, node.value
        return
    yield from paths(node.left, (*steps, (node.feature, node.threshold, True)))
    yield from paths(node.right, (*steps, (node.feature, node.threshold, False)))
