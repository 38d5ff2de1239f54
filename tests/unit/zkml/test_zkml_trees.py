"""Trees walked a depth at a time, by one comparison each, answer as before."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from xgboost import XGBRegressor

from privacy.publish.core import to_onnx
from privacy.publish.trees import tree_module
from privacy.trees import Ensemble, Node, ensemble_of
from privacy.zkml.onnx_prep import constants, fix_batch, open_session
from privacy.zkml.read_trees import read_trees
from privacy.zkml.rewrite import rewrite
from privacy.zkml.system import CircuitChoice, Visibility, load_backend

CHOICE = CircuitChoice(9, 512, 2, 1, 1, 22)
FEATURES = 13


def write(path: Path, ensemble: Ensemble | None, features: int = FEATURES) -> None:
    assert ensemble is not None
    path.write_bytes(to_onnx(tree_module(ensemble), features))
    fix_batch(path, path)


def run(path: Path, rows: Any) -> Any:
    session, name = open_session(path.read_bytes())
    return np.concatenate(
        [session.run(None, {name: row[None].astype(np.float32)})[0] for row in rows]
    )


def cells(path: Path, scratch: Path) -> int:
    seen = Visibility(input="private")
    return load_backend().size(path, CHOICE, seen, scratch).assignments


@pytest.fixture(scope="module")
def wine() -> tuple[Any, Any]:
    return load_wine(return_X_y=True)  # type: ignore[no-any-return]


def rewritten(path: Path, rows: Any) -> Any:
    low, high = rows.min(axis=0) - 1.0, rows.max(axis=0) + 1.0
    drawn = np.random.default_rng(0).uniform(low, high, (200, rows.shape[1]))
    before = run(path, drawn)
    made = rewrite(path, low, high)
    assert np.abs(run(path, (drawn - made.offset) / made.scale) - before).max() < 1e-5
    return before


@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeClassifier(random_state=0),
        RandomForestClassifier(10, max_depth=4, random_state=0),
        GradientBoostingClassifier(n_estimators=4, max_depth=3, random_state=0),
        GradientBoostingClassifier(n_estimators=12, max_depth=1, random_state=0),
    ],
    ids=["tree", "forest", "boosted", "stumps"],
)
def test_trees_of_several_classes_keep_their_answers(
    tmp_path: Path, wine: Any, model: Any
) -> None:
    path = tmp_path / "m.onnx"
    write(path, ensemble_of(model.fit(*wine)))
    assert len(np.unique(rewritten(path, wine[0]).argmax(axis=1))) == 3


def test_a_regressor_keeps_its_answers(tmp_path: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    forest = RandomForestRegressor(5, max_depth=5, random_state=0).fit(x, y)
    write(tmp_path / "m.onnx", ensemble_of(forest), x.shape[1])
    low, high = x.min(axis=0), x.max(axis=0)
    before = run(tmp_path / "m.onnx", x[:100])
    made = rewrite(tmp_path / "m.onnx", low, high)
    moved = (x[:100] - made.offset) / made.scale
    assert np.allclose(run(tmp_path / "m.onnx", moved), before, rtol=1e-5)


def test_a_forest_takes_half_of_the_cells(tmp_path: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    path = tmp_path / "m.onnx"
    forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(x, y)
    write(path, ensemble_of(forest), x.shape[1])
    many = cells(path, tmp_path)
    rewrite(path, x.min(axis=0), x.max(axis=0))
    assert cells(path, tmp_path) < 0.55 * many


def test_trees_that_share_comparisons_make_each_once(tmp_path: Path) -> None:
    """Four comparisons of twelve trees: selecting would take a dozen more."""
    rng = np.random.default_rng(0)

    def leaf() -> Node:
        return Node(value=(float(rng.normal()),))

    def node(feature: int, left: Node, right: Node) -> Node:
        return Node(feature, 0.5, left, right)

    trees = tuple(
        node(0, node(1, leaf(), leaf()), node(2, node(3, leaf(), leaf()), leaf()))
        for _ in range(12)
    )
    path = tmp_path / "m.onnx"
    write(path, Ensemble(trees, (0.25,), "none"), 4)
    rewritten(path, rng.uniform(0, 1, (50, 4)))
    (equal,) = [n for n in onnx.load(str(path)).graph.node if n.op_type == "Equal"][:1]
    assert cells(path, tmp_path) < 12 * 22 + 4 * 10 + 12 * 8
    assert equal


def test_nodes_that_onnx_runtime_fuses_have_names(tmp_path: Path) -> None:
    """It names fused nodes after them, and loads no model with two of one name."""
    values = iter(np.linspace(-1, 1, 20).tolist())
    limits = (0.97, 0.09, 0.66)

    def tree(*parts: Any) -> Node:
        if not parts:
            return Node(value=(next(values),))
        feature, left, right = parts
        return Node(feature, limits[feature], tree(*left), tree(*right))

    leaf: Any = ()
    one, two = (1, leaf, leaf), (2, leaf, leaf)
    left = (0, leaf, (1, (1, leaf, two), (2, one, one)))
    right = (0, (0, leaf, (2, leaf, (0, leaf, leaf))), one)
    path = tmp_path / "m.onnx"
    write(path, Ensemble((tree(0, left, right),), (0.25,), "none"), 3)
    rewritten(path, np.array([[0.0] * 3, [1.0] * 3]))


def test_what_is_read_are_the_trees_that_were_written(
    tmp_path: Path, wine: Any
) -> None:
    x, y = wine
    ensemble = ensemble_of(
        RandomForestClassifier(4, max_depth=3, random_state=1).fit(x, y)
    )
    write(tmp_path / "m.onnx", ensemble)
    assert ensemble is not None
    found = read_trees(tmp_path / "m.onnx")
    assert found is not None
    assert sorted(map(_shape, found.roots)) == sorted(map(_shape, ensemble.trees))


def _shape(node: Node) -> str:
    if not (node.left and node.right):
        return f"({', '.join(f'{v:.5f}' for v in node.value)})"
    below = f"{_shape(node.left)} {_shape(node.right)}"
    return f"[{node.feature} {node.threshold:.6g} {below}]"


def _in_fixed_point(path: Path, made: Any, rows: Any, bits: int = 9) -> Any:
    """Return answers with features and constants as a circuit has them."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            coarse = (np.rint(value * 2.0**bits) / 2**bits).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(coarse, tensor.name))
    onnx.save(model, str(path))
    return run(path, np.rint((rows - made.offset) / made.scale * 2**bits) / 2**bits)


def test_features_that_are_a_threshold_of_xgboost_go_right(tmp_path: Path) -> None:
    """Its thresholds are values of the data: most rows meet one."""
    rows = np.random.default_rng(0).integers(0, 6, (300, 3)).astype(np.float64)
    model = XGBRegressor(n_estimators=3, max_depth=3, tree_method="hist")
    model.fit(rows, rows @ [1.0, -2.0, 0.5] + 3 * (rows[:, 0] > 2))
    path = tmp_path / "m.onnx"
    write(path, ensemble_of(model), 3)
    low, high = rows.min(axis=0) - 0.7, rows.max(axis=0) + 0.7
    trees = read_trees(path)
    made = rewrite(path, low, high)
    assert trees is not None
    assert trees.strict
    clear = model.predict(rows, output_margin=True)
    assert np.abs(_in_fixed_point(path, made, rows)[:, 0] - clear).max() < 0.05


def test_features_that_are_a_threshold_of_scikit_learn_go_left(tmp_path: Path) -> None:
    rows = 2.0 * np.random.default_rng(0).integers(0, 4, (200, 3))
    model = DecisionTreeRegressor(max_depth=4, random_state=0)
    model.fit(rows, rows @ [1.0, -2.0, 0.5])
    path = tmp_path / "m.onnx"
    write(path, ensemble_of(model), 3)
    made = rewrite(path, rows.min(axis=0) - 0.7, rows.max(axis=0) + 0.7)
    asked = np.minimum(rows + 1, 5)  # between any two values of the data
    clear = model.predict(asked)
    assert np.abs(_in_fixed_point(path, made, asked)[:, 0] - clear).max() < 0.05


def test_thresholds_that_nothing_reaches_stay_small(tmp_path: Path) -> None:
    """A feature that never varied here has a scale of its own, far below one."""
    leaves = [Node(value=(float(v),)) for v in range(3)]
    far = Node(1, 1e6, Node(0, 0.5, leaves[0], leaves[1]), leaves[2])
    path = tmp_path / "m.onnx"
    write(path, Ensemble((far,), (0.0,), "none"), 2)
    rows = np.array([[0.0, 3.0], [1.0, 3.0]])
    before = run(path, rows)
    made = rewrite(path, rows.min(axis=0), rows.max(axis=0))
    assert np.array_equal(run(path, (rows - made.offset) / made.scale), before)
    numbers = constants(onnx.load(str(path)).graph).values()
    assert max(np.abs(v).max() for v in numbers) < 32


@pytest.mark.parametrize(
    ("kinds", "strict"),
    [
        (("Greater", "Greater"), False),
        (("GreaterOrEqual", "GreaterOrEqual"), True),
        (("Greater", "GreaterOrEqual"), None),
    ],
    ids=["less or equal", "less", "both"],
)
def test_trees_are_read_if_all_compare_in_one_way(
    tmp_path: Path, kinds: tuple[str, str], strict: object
) -> None:
    nodes = list[Any]()
    numbers: dict[str, Any] = {"one": [1.0], "values": [[1.0], [2.0], [3.0], [4.0]]}
    for i, kind in enumerate(kinds):
        numbers[f"limit{i}"] = [0.5]
        nodes += [
            helper.make_node("Gather", ["x", f"at{i}"], [f"g{i}"], axis=1),
            helper.make_node(kind, [f"g{i}", f"limit{i}"], [f"o{i}"]),
            helper.make_node("Cast", [f"o{i}"], [f"r{i}"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["one", f"r{i}"], [f"l{i}"]),
        ]
    nodes.append(helper.make_node("Concat", ["l0", "r0", "l1", "r1"], ["e"], axis=1))
    nodes.append(helper.make_node("MatMul", ["e", "values"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [
            *(numpy_helper.from_array(np.float32(v), n) for n, v in numbers.items()),
            *(numpy_helper.from_array(np.array([i]), f"at{i}") for i in range(2)),
        ],
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    found = read_trees(tmp_path / "m.onnx")
    assert (found.strict if found else None) is strict


def _swap(model: Any) -> None:
    """Lead the other way at one depth."""
    node = [n for n in model.graph.node if n.op_type == "Sub"][-1]
    node.input[0], node.input[1] = node.input[1], node.input[0]


def _less(model: Any) -> None:
    next(n for n in model.graph.node if n.op_type == "Greater").op_type = "Less"


def _by_row(model: Any) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Concat")
    node.attribute[0].i = 0


def _twice(model: Any) -> None:
    node = [n for n in model.graph.node if n.op_type == "Mul"][-1]
    node.input[1] = node.input[0]


def _replace(model: Any, name: str, array: Any) -> None:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _several_rows(model: Any) -> None:
    """As many thresholds, but against each feature each of them."""
    node = next(n for n in model.graph.node if n.op_type == "Greater")
    limits = constants(model.graph)[node.input[1]]
    _replace(model, node.input[1], limits[:, None])


def _no_number(model: Any) -> None:
    """Nothing is greater; a circuit has no such thing."""
    node = next(n for n in model.graph.node if n.op_type == "Greater")
    limits = constants(model.graph)[node.input[1]].copy()
    limits[0] = np.nan
    _replace(model, node.input[1], limits)


def _base_of_several_rows(model: Any) -> None:
    node = model.graph.node[-1]
    _replace(model, node.input[1], constants(model.graph)[node.input[1]][:, None])


def _ends_otherwise(model: Any) -> None:
    model.graph.node[-1].op_type = "Sub"


@pytest.mark.parametrize(
    "change",
    [
        _swap,
        _less,
        _by_row,
        _twice,
        _ends_otherwise,
        _several_rows,
        _no_number,
        _base_of_several_rows,
    ],
    ids=lambda f: f.__name__,
)
def test_a_graph_that_does_anything_else_is_not_read(
    tmp_path: Path, wine: Any, change: Any
) -> None:
    path = tmp_path / "m.onnx"
    forest = RandomForestClassifier(3, max_depth=3, random_state=0).fit(*wine)
    write(path, ensemble_of(forest))
    assert read_trees(path)
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    assert read_trees(path) is None
