"""Binning trained trees: exact on their own thresholds, close on quantiles."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_wine
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier, XGBRegressor

from privacy.errors import BackendError, FormatError
from privacy.fhe.binning import bin_trees, quantile_edges, threshold_edges, walk
from privacy.fhe.draft import ranks
from privacy.fhe.quantizers import (
    SumSteps,
    parse_sums,
    quantize,
    raw_outputs,
    steps_to_json,
)
from privacy.fhe.thermometer import Edges, edges_to_json, parse_edges, thermometer
from privacy.fhe.tree_choice import BINS, choose, draft_at, with_fewer_look_ups
from privacy.trees import ensemble_of

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)


def standard(load):
    rows, truth = load(return_X_y=True)
    rows = ((rows - rows.mean(0)) / rows.std(0)).astype(np.float32)
    return rows.astype(np.float64), truth


MODELS = {
    "extra trees": (
        ExtraTreesClassifier(5, max_depth=5, random_state=0),
        load_wine,
        lambda m, x: m.predict_proba(x),
    ),
    "boosting": (
        GradientBoostingRegressor(n_estimators=5, random_state=0),
        load_diabetes,
        lambda m, x: m.predict(x)[:, None],
    ),
    "xgboost": (
        XGBClassifier(n_estimators=5, max_depth=3),
        load_wine,
        lambda m, x: m.predict(x, output_margin=True),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_binning_at_the_models_own_thresholds_changes_nothing(name):
    model, load, raw = MODELS[name]
    rows, truth = standard(load)
    ensemble = ensemble_of(model.fit(rows.astype(np.float32), truth))
    edges = threshold_edges(ensemble, rows.shape[1])
    # rows exactly on an edge are the hard ones
    on_edge = rows[:40].copy()
    for i, feature in enumerate(edges):
        if feature.edges:
            on_edge[:, i] = np.resize(feature.edges, 40)
    given_rows = np.concatenate([rows, on_edge])
    bits = thermometer(given_rows, edges)
    found = sum(walk(t, bits) for t in bin_trees(ensemble, edges, rows))
    expected = raw(model, given_rows.astype(np.float32))
    assert np.allclose(found + np.array(ensemble.base), expected, rtol=1e-4, atol=1e-4)


def test_quantile_edges_lie_between_values_and_say_nothing_of_the_model():
    rows = np.array([[0.0, 5.0, i] for i in range(100)] + [[1.0, 5.0, 100.0]])
    few, none, many = quantile_edges(rows, 16)
    assert few.edges == (0.5,)
    assert none.edges == ()
    assert len(many.edges) == 15
    counts = np.diff(np.searchsorted(rows[:, 2], [-1, *many.edges, 101]))
    assert counts.min() >= 5
    assert counts.max() <= 8


def test_a_test_decided_by_the_path_is_left_out():
    rows, truth = standard(load_wine)
    model = DecisionTreeClassifier(random_state=0).fit(rows, truth)
    (tree,) = bin_trees(ensemble_of(model), quantile_edges(rows, 2), rows)

    def tests(node, seen):
        if node.children is None:
            return
        assert node.bit not in seen
        for child in node.children:
            tests(child, {*seen, node.bit})

    tests(tree, set())


def test_coarse_bins_are_not_chosen_where_they_lose_the_answer():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(800, 2)).astype(np.float32).astype(np.float64)
    easy = rows[:, 0] > np.median(rows[:, 0])
    hard = np.floor(rows[:, 0] * 8) % 2 == 0
    for truth, bins in ((easy, BINS[0]), (hard, BINS[2])):
        model = DecisionTreeClassifier(random_state=0).fit(rows, truth)
        drafts = choose(
            ensemble_of(model), rows, splits="hidden", task="classification"
        )
        assert drafts[0].bins >= bins
        assert (drafts[0].bins == BINS[0]) == (bins == BINS[0])


def test_rounding_takes_no_more_of_a_regression_than_is_wanted():
    """Six bits would do for 1.26 % of the variance, where 1 % is wanted."""
    rows, truth = load_diabetes(return_X_y=True)
    rows, _, truth, _ = train_test_split(rows.astype(np.float32), truth, random_state=3)
    model = XGBRegressor(n_estimators=20, max_depth=3, random_state=0).fit(rows, truth)
    rows = rows.astype(np.float64)
    ensemble = ensemble_of(model)
    draft = choose(ensemble, rows, splits="revealed", task="regression")[0]
    found = raw_outputs(draft.sums(thermometer(rows, draft.edges)), draft.output)
    clear = model.predict(rows.astype(np.float32))
    assert np.mean((found[:, 0] - clear) ** 2) <= 0.01 * clear.var()


def test_a_class_that_hardly_any_row_has_keeps_its_probabilities():
    """With 16 bins all labels stay, and a third of the probabilities' variance goes."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1500, 3)).astype(np.float32).astype(np.float64)
    truth = rows[:, 0] + 0.7 * rng.normal(size=1500) > 2.7
    model = RandomForestClassifier(
        20, max_depth=3, min_samples_leaf=20, random_state=0
    ).fit(rows, truth)
    clear = model.predict_proba(rows)
    assert (clear.argmax(axis=1) == 0).all()
    draft = choose(ensemble_of(model), rows, splits="hidden", task="classification")[0]
    found = raw_outputs(draft.sums(thermometer(rows, draft.edges)), draft.output)
    assert np.mean((found - clear) ** 2) < 0.06 * clear[:, 1].var()


@pytest.mark.slow
@pytest.mark.parametrize(("sum_bits", "moves"), [(3, False), (4, True)])
def test_look_ups_are_saved_only_where_that_hardly_shows(sum_bits, moves):
    """A tuned circuit's loss was measured before leaves moved."""
    rows, truth = load_diabetes(return_X_y=True)
    model = RandomForestRegressor(3, max_depth=4, random_state=0).fit(rows, truth)
    draft = draft_at(ensemble_of(model), rows, bins=16, sum_bits=sum_bits)
    bits = thermometer(rows, draft.edges)
    sums, before = with_fewer_look_ups(draft, rows).sums(bits), draft.sums(bits)
    assert ((sums - before) ** 2).mean() <= 0.004 * before.var()
    assert (sums != before).any() == moves
    assert (draft.thrifty(bits).sums(bits) != before).any()


def test_a_model_that_ignores_its_input_is_refused():
    rows = np.ones((10, 2))
    model = DecisionTreeClassifier().fit(rows, [0, 1] * 5)
    with pytest.raises(BackendError, match="does not depend"):
        choose(ensemble_of(model), rows, splits="hidden", task="classification")


# What clients do


@given(
    st.lists(st.lists(FLOATS, max_size=6, unique=True), min_size=1, max_size=4),
    st.data(),
)
def test_bits_are_the_rank_of_a_feature_among_its_edges(cuts, data):
    edges = [Edges(tuple(sorted(c))) for c in cuts]
    near = st.sampled_from([e for c in cuts for e in c] or [0.0])
    row = [data.draw(FLOATS | near) for _ in cuts]
    rows = np.array([row])
    bits = thermometer(rows, edges)
    assert bits.tolist() == ranks(rows, edges).tolist()
    assert bits.sum() == sum(
        v > e for v, f in zip(row, edges, strict=True) for e in f.edges
    )


def test_features_beyond_float32_are_beyond_every_edge():
    rows = np.array([[1e300], [-1e300]])
    assert thermometer(rows, [Edges((-1.0, 1.0))]).tolist() == [[1, 1], [0, 0]]


def test_quantize_takes_edges():
    assert quantize(np.array([[0.5, 2.0]]), [Edges((0.0,)), Edges(())]).tolist() == [
        [1]
    ]


@given(st.lists(FLOATS, max_size=5, unique=True))
def test_edges_survive_json(cuts):
    edges = Edges(tuple(sorted(cuts)))
    assert parse_edges(json.loads(json.dumps(edges_to_json(edges)))) == edges


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        None,
        {"edges": None},
        {"edges": [1.0, 1.0]},
        {"edges": [2.0, 1.0]},
        {"edges": ["1"]},
        {"edges": [True]},
        {"edges": [0.1]},  # no float32
        {"edges": [1e300]},
        {"edges": [float("nan")]},
        {"edges": [float("inf")]},
        {"edges": [10**400]},
        {"edges": [1.0], "more": 1},
    ],
)
def test_parsing_refuses_changed_edges(value):
    with pytest.raises(FormatError):
        parse_edges(value)


SUMS = SumSteps(scale=(0.5, 2.0), offset=(1.0, -1.0), complement=False)


def test_sums_become_raw_outputs():
    assert raw_outputs(np.array([[2, 3]]), SUMS).tolist() == [[2.0, 5.0]]
    one = SumSteps(scale=(0.25,), offset=(0.0,), complement=True)
    assert raw_outputs(np.array([[1], [4]]), one).tolist() == [[0.75, 0.25], [0, 1]]
    two = SumSteps(scale=(0.25, 0.5), offset=(0.0, 0.0), complement=True)
    assert raw_outputs(np.array([[1, 1]]), two).tolist() == [[0.25, 0.25, 0.5]]


@given(
    st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), min_size=1),
    st.tuples(*[st.floats(1e-6, 1.0)] * 3),
    st.tuples(*[st.floats(-0.5, 0.5)] * 3),
)
def test_whatever_rounding_did_probabilities_are_probabilities(sums, scale, offset):
    found = raw_outputs(np.array(sums), SumSteps(scale, offset, complement=True))
    assert found.min() >= 0
    assert np.allclose(found.sum(axis=1), 1)
    others = np.array(scale) * sums + np.array(offset)
    plain = np.concatenate([1 - others.sum(axis=1, keepdims=True), others], axis=1)
    best = np.take_along_axis(plain, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    assert np.allclose(best, plain.max(axis=1))
    inside = (plain >= 0).all(axis=1)
    assert np.allclose(found[inside], plain[inside])


@pytest.mark.parametrize("width", [1, 3])
def test_a_result_of_another_width_is_refused(width):
    with pytest.raises(FormatError, match="expected \\(2,\\)") as caught:
        raw_outputs(np.zeros((4, width), dtype=np.int64), SUMS)
    assert caught.value.code == "fhe-result-mismatch"


def test_sum_steps_survive_json():
    assert parse_sums(json.loads(json.dumps(steps_to_json(SUMS)))) == SUMS


@pytest.mark.parametrize(
    "change",
    [
        {"scale": []},
        {"scale": [0.0, 1.0]},
        {"scale": [1.0]},
        {"scale": "x"},
        {"scale": [1.0, "nan"]},
        {"scale": [1.0, float("inf")]},
        {"scale": [1.0, True]},
        {"offset": [0.0, "inf"]},
        {"offset": [0.0, 10**400]},
        {"complement": 1},
        {"complement": True, "mirror": True},
        {"mirror": True},
        {"more": 1},
    ],
)
def test_parsing_refuses_changed_sum_steps(change):
    with pytest.raises(FormatError):
        parse_sums({**steps_to_json(SUMS), **change})
