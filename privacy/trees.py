"""Trained tree ensembles as plain nodes, from scikit-learn and XGBoost.

Leaf values are in the units of raw outputs. Thresholds are rounded so that float32
comparisons decide as the library does: scikit-learn compares float32 features with
float64 thresholds (`x <= t`), XGBoost with float32 ones (`x < t`). XGBoost's are often
values of the data, so which side these go to must survive fixed point as well:
`Ensemble.strict` tells.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.errors import FormatError

MOST_LEVELS = 200
"""Of a tree that circuits are made of: they are walked by recursion, at up to four
frames a level."""


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
    """Return the trees of a scikit-learn or XGBoost estimator; None if it has none.

    Raises:
        FormatError: Its trees do not say all that it answers, or a leaf is not finite.
    """
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
    if name not in readers:
        return None
    found = readers[name](core)
    held = [value for tree in found.trees for _, leaf in paths(tree) for value in leaf]
    if not np.isfinite([*held, *found.base]).all():
        raise _unsupported("a leaf of its trees is not a finite number: train it anew")
    return found


def margin_scale(core: Any) -> float:
    """Return how many times its decision function an estimator's raw outputs are.

    Of a boosted exponential loss the sigmoid of twice the decision is the probability.
    """
    return 2.0 if getattr(core, "loss", "") == "exponential" else 1.0


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
    width, scale = core.estimators_.shape[1], margin_scale(core)
    if core.init_ != "zero" and not type(core.init_).__name__.startswith("Dummy"):
        msg = f"its initial estimate is a {type(core.init_).__name__} of its own"
        raise _unsupported(f"{msg}: train it without `init`")
    rows = np.zeros((1, core.n_features_in_))
    base = np.atleast_1d(core._raw_predict_init(rows)[0])  # noqa: SLF001 - no public way
    trees = []
    for stage in core.estimators_:
        for k, estimator in enumerate(stage):

            def leaf(values: Any, k: int = k) -> tuple[float, ...]:
                value = scale * core.learning_rate * float(values[0][0])
                return tuple(value if i == k else 0.0 for i in range(width))

            trees.append(_from_sklearn(estimator.tree_, leaf))
    is_classifier = hasattr(core, "classes_")
    activation = ("sigmoid" if width == 1 else "softmax") if is_classifier else "none"
    return Ensemble(tuple(trees), tuple(scale * float(b) for b in base), activation)


def _from_sklearn(tree: Any, leaf: Callable[[Any], tuple[float, ...]]) -> Node:
    return _grown(
        tree.children_left.tolist(),
        tree.children_right.tolist(),
        leaf=lambda i: leaf(tree.value[i]),
        feature=lambda i: int(tree.feature[i]),
        threshold=lambda i: float32_at_most(float(tree.threshold[i])),
    )


def _grown(
    left: Sequence[int],
    right: Sequence[int],
    *,
    leaf: Callable[[int], tuple[float, ...]],
    feature: Callable[[int], int],
    threshold: Callable[[int], float],
) -> Node:
    """Return a tree of any depth from the numbers of its nodes; the root's is 0.

    Args:
        left: Of each node, its child's number; below 0 of a leaf.
        right: Likewise.
        leaf: Says a leaf's values.
        feature: Says what a node compares.
        threshold: Says with what.
    """
    order, waiting = list[int](), [0]
    while waiting:
        order.append(i := waiting.pop())
        if left[i] >= 0:
            waiting += [left[i], right[i]]
    made: dict[int, Node] = {}
    for i in reversed(order):
        if left[i] < 0:
            made[i] = Node(value=leaf(i))
        else:
            below = made[left[i]], made[right[i]]
            made[i] = Node(feature(i), threshold(i), *below)
    return made[0]


def float32_at_most(value: float) -> float:
    """Return the largest float32 that is not above a number."""
    near = np.float32(value)
    return float(near if near <= value else np.nextafter(near, np.float32(-np.inf)))


def float32_after(value: float) -> float:
    """Return the least float32 above another."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def _xgboost(core: Any) -> Ensemble:
    booster = core.get_booster()
    config = json.loads(booster.save_config())["learner"]
    objective = config["objective"]["name"]
    is_classifier = hasattr(core, "classes_") and hasattr(core, "predict_proba")
    known = {"binary:logistic", "multi:softprob", "reg:squarederror"}
    if objective not in known:
        msg = f"XGBoost objective {objective} is not one of {', '.join(sorted(known))}"
        raise FormatError(msg, code="unsupported-model")
    _check_xgboost(core, config)
    width = len(core.classes_) if objective == "multi:softprob" else 1
    alike = int(config["gradient_booster"]["gbtree_model_param"]["num_parallel_tree"])
    # Of a dump, thresholds of columns of integers would be rounded up.
    told = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]
    made = list(zip(told["trees"], told["tree_info"], strict=True))
    if (best := getattr(core, "best_iteration", None)) is not None:  # stopped early
        made = made[: (best + 1) * width * alike]
    trees = tuple(_from_xgboost(tree, at, width) for tree, at in made)
    base = xgboost_base(core)
    base = base * width if len(base) == 1 else base
    activation = ("sigmoid" if width == 1 else "softmax") if is_classifier else "none"
    return Ensemble(trees, base, activation, strict=True)


def xgboost_base(core: Any) -> tuple[float, ...]:
    """Return what XGBoost adds to the sums of its trees: one number, or one an output.

    Raises:
        FormatError: Its configuration has neither.
    """
    learner = json.loads(core.get_booster().save_config())["learner"]
    parameters = learner["learner_model_param"]
    told = str(parameters["base_score"])
    try:  # a number; since XGBoost 3.1 a list of them
        found = np.array([float(v) for v in told.strip("[]").split(",")])
    except ValueError:
        found = np.array([np.nan])
    if learner["objective"]["name"] == "binary:logistic":
        found = np.where((found > 0) & (found < 1), found, np.nan)
        found = np.log(found / (1.0 - found))
    outputs = max(int(parameters["num_class"]), 1)
    if not np.isfinite(found).all() or len(found) not in {1, outputs}:
        msg = f"XGBoost's base_score is {told[:80]}, expected a number for each output"
        raise _unsupported(msg)
    return tuple(found.tolist())


def _check_xgboost(core: Any, config: Any) -> None:
    """Refuse what answers otherwise than by the sum of the leaves that are reached."""
    if (kind := config["gradient_booster"]["name"]) != "gbtree":
        raise _unsupported(f"XGBoost's booster is {kind}: only gbtree is read")
    if int(config["learner_model_param"].get("num_target", 1)) > 1:
        raise FormatError("multi-output trees are not supported yet")
    if core.missing is not None and not np.isnan(core.missing):
        msg = f"XGBoost takes {core.missing} for a missing value: train it with NaN"
        raise _unsupported(f"{msg} for that")
    if "c" in (core.get_booster().feature_types or ()):
        raise _unsupported("it splits categories: train it on numbers")


def _unsupported(why: str) -> FormatError:
    return FormatError(f"the model cannot be read: {why}", code="unsupported-model")


def _from_xgboost(tree: Any, at: int, width: int) -> Node:
    limits = np.array(tree["split_conditions"], np.float32)  # or the values of leaves
    under = np.nextafter(limits, np.float32(-np.inf))

    def leaf(i: int) -> tuple[float, ...]:
        return tuple(float(limits[i]) if k == at else 0.0 for k in range(width))

    return _grown(
        tree["left_children"],
        tree["right_children"],
        leaf=leaf,
        feature=lambda i: int(tree["split_indices"][i]),
        threshold=lambda i: float(under[i]),  # x < t
    )


Step = tuple[int, float, bool]
"""A feature, a threshold, and whether the comparison `x <= threshold` holds."""


def paths(tree: Node) -> Iterator[tuple[tuple[Step, ...], tuple[float, ...]]]:
    """Yield the steps to each leaf, and its values, the leftmost first."""
    waiting: list[tuple[Node, tuple[Step, ...]]] = [(tree, ())]
    while waiting:
        node, steps = waiting.pop()
        if node.left is None or node.right is None:
            yield steps, node.value
            continue
        at = node.feature, node.threshold
        waiting.append((node.right, (*steps, (*at, False))))
        waiting.append((node.left, (*steps, (*at, True))))


def check_levels(trees: Iterable[Node]) -> None:
    """Refuse trees too deep for what walks them by recursion.

    Raises:
        FormatError: One has more levels of comparisons than `MOST_LEVELS`.
    """
    levels, nodes = 0, list(trees)
    while nodes := [n for node in nodes for n in (node.left, node.right) if n]:
        levels += 1
    if levels > MOST_LEVELS:
        raise too_deep(levels)


def too_deep(levels: int) -> FormatError:
    """Return the error that says how deep trees may be."""
    msg = (
        f"a tree has {levels} levels, at most {MOST_LEVELS} can be served in this "
        "mode: train it with a lower max_depth"
    )
    return FormatError(msg, code="tree-too-deep")
