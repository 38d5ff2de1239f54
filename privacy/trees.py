"""Trained tree ensembles as plain nodes, from scikit-learn and XGBoost.

Leaf values are in the units of raw outputs. Thresholds are rounded so that float32
comparisons decide as the library does: scikit-learn compares float32 features with
float64 thresholds (`x <= t`), XGBoost with float32 ones (`x < t`). XGBoost's are often
values of the data, so which side these go to must survive fixed point as well:
`Ensemble.strict` tells.
"""

import json
import math
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
    """Trees whose leaf values are summed with `base`; outputs are raw.

    Attributes:
        strict: The library compares `x < t`; each threshold is the float32 before t.
    """

    trees: tuple[Node, ...]
    base: tuple[float, ...]
    activation: str
    strict: bool = False


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
    width, times = core.estimators_.shape[1], logit_times(core)
    rows = np.zeros((1, core.n_features_in_))
    base = times * core._raw_predict_init(rows).reshape(-1)  # noqa: SLF001 - no public way
    trees = []
    for stage in core.estimators_:
        for k, estimator in enumerate(stage):

            def leaf(values: Any, k: int = k) -> tuple[float, ...]:
                value = times * core.learning_rate * float(values[0][0])
                return tuple(value if i == k else 0.0 for i in range(width))

            trees.append(_from_sklearn(estimator.tree_, leaf))
    is_classifier = hasattr(core, "classes_")
    activation = ("sigmoid" if width == 1 else "softmax") if is_classifier else "none"
    return Ensemble(tuple(trees), tuple(float(b) for b in base), activation)


def logit_times(core: Any) -> float:
    """Return how many times an estimator's decision function its logit is.

    Of boosting with the exponential loss, probabilities are sigmoids of twice that.
    """
    return 2.0 if getattr(core, "loss", "") == "exponential" else 1.0


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


def float32_after(value: float) -> float:
    """Return the least float32 above another."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


_XGBOOST_OBJECTIVES = {"binary:logistic", "multi:softprob", "reg:squarederror"}


def _xgboost(core: Any) -> Ensemble:
    learner = _learner(core)
    objective = learner["objective"]["name"]
    width = len(core.classes_) if objective == "multi:softprob" else 1
    model = learner["gradient_booster"]["model"]
    made = list(zip(model["trees"], model["tree_info"], strict=True))
    rounds = max(1, core.get_booster().num_boosted_rounds())
    last = getattr(core, "best_iteration", rounds - 1)  # training may have gone on
    used = made[: len(made) // rounds * (last + 1)]
    trees = tuple(_from_xgboost(tree, at, width) for tree, at in used)
    base = float(learner["learner_model_param"]["base_score"])
    if objective == "binary:logistic":
        base = float(np.log(base / (1.0 - base)))
    is_classifier = hasattr(core, "classes_") and hasattr(core, "predict_proba")
    activation = ("sigmoid" if width == 1 else "softmax") if is_classifier else "none"
    return Ensemble(trees, (base,) * width, activation, strict=True)


def _learner(core: Any) -> Any:
    """Return XGBoost's own description of its trees.

    Raises:
        FormatError: They are summed, compared or missed in a way we do not know.
    """
    learner = json.loads(core.get_booster().save_raw("json"))["learner"]
    objective, way = learner["objective"]["name"], learner["gradient_booster"]
    if objective not in _XGBOOST_OBJECTIVES:
        known = ", ".join(sorted(_XGBOOST_OBJECTIVES))
        raise _unsupported(f"XGBoost objective {objective} is not one of {known}")
    if way["name"] != "gbtree":
        raise _unsupported(f"XGBoost booster {way['name']} is not gbtree")
    missing = getattr(core, "missing", None)
    if not (missing is None or math.isnan(missing)):
        msg = f"XGBoost was told that {missing:g} is a missing value, which is a number"
        raise _unsupported(f"{msg} here: train it with missing=nan")
    if any(any(tree.get("split_type", ())) for tree in way["model"]["trees"]):
        msg = "XGBoost compares categories: encode them as columns of 0 and 1"
        raise _unsupported(msg)
    return learner


def _unsupported(msg: str) -> FormatError:
    return FormatError(msg, code="unsupported-model")


def _from_xgboost(tree: Any, at: int, width: int) -> Node:
    limits = np.array(tree["split_conditions"], np.float32)  # or the values of leaves

    def build(i: int) -> Node:
        left, right = tree["left_children"][i], tree["right_children"][i]
        if left < 0:
            value = float(limits[i])
            return Node(value=tuple(value if k == at else 0.0 for k in range(width)))
        return Node(
            feature=tree["split_indices"][i],
            threshold=float(np.nextafter(limits[i], np.float32(-np.inf))),  # x < t
            left=build(left),
            right=build(right),
        )

    return build(0)


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
