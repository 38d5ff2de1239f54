"""Leaves by number, by clear evaluation: numbers lead to what the trees give."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import BackendError, FormatError
from privacy.fhe.binning import BitNode, walk
from privacy.fhe.leaf_numbers import plan_numbers
from privacy.fhe.leaf_tables import LeafTable, leaf_sums, parse_table, table_to_json
from privacy.fhe.plan import evaluate
from privacy.fhe.quantizers import SumSteps, parse_sums, raw_outputs, steps_to_json
from privacy.fhe.rounding import round_leaves, walk_sums
from tests.unit.fhe.test_fhe_blocks import INPUTS, OWNER, full, trees


@settings(deadline=None, max_examples=10)
@given(st.lists(trees(outputs=3, depth=3), min_size=1, max_size=2))
def test_the_numbers_lead_to_what_walking_the_trees_gives(forest):
    whole = round_leaves(forest, INPUTS, 8).trees
    if not (varying := [tree for tree in whole if tree.children]):
        return
    made, numberings = plan_numbers(varying, OWNER, table_bits=4)
    numbers = evaluate(made, INPUTS)
    assert numbers.min() >= 0
    assert numbers.max() < 2**made.sum_bits <= 256
    assert (np.stack([n.walk(INPUTS) for n in numberings], axis=1) == numbers).all()
    tables = [n.table() for n in numberings]
    found = leaf_sums(tables, numbers)
    assert (found == walk_sums(whole, INPUTS)).all()


def random_inputs(bits, rows=400):
    return np.random.default_rng(0).integers(0, 2, (rows, bits))


def relabelled(tree, rng):
    """The same tests, every leaf a vector of its own."""
    if tree.children is None:
        return BitNode(value=tuple(map(float, rng.integers(1, 99, 10))))
    return BitNode(tree.bit, *(relabelled(child, rng) for child in tree.children))


def test_a_full_tree_of_depth_four_takes_five_look_ups_for_any_number_of_classes():
    tree = relabelled(full(4), np.random.default_rng(1))
    made, (numbering,) = plan_numbers([tree], range(31), table_bits=4)
    assert (len(made.look_ups), made.outputs, made.sum_bits) == (5, 1, 6)
    table = numbering.table()
    assert len(table.leaves) == 16
    assert len(table.numbers) == 64
    rows = random_inputs(31)
    numbers = evaluate(made, rows)
    assert (numbers[:, 0] == numbering.walk(rows)).all()
    assert (leaf_sums([table], numbers) == walk(tree, rows)).all()


def test_a_tree_with_a_leaf_below_its_root_is_numbered_too():
    """One grandchild is missing, and a pair has one member only."""
    side, rng = full(3), np.random.default_rng(1)
    for lopsided in (BitNode(20, full(0), side), BitNode(20, side, full(0))):
        tree, rows = relabelled(lopsided, rng), random_inputs(31)
        made, (numbering,) = plan_numbers([tree], range(31), table_bits=4)
        found = leaf_sums([numbering.table()], evaluate(made, rows))
        assert (found == walk(tree, rows)).all()


def test_a_tree_of_more_leaves_than_a_sum_can_number_is_refused():
    tree = relabelled(full(9), np.random.default_rng(1))
    with pytest.raises(BackendError, match="more leaves than 256") as caught:
        plan_numbers([tree], range(1023), table_bits=4)
    assert caught.value.code == "fhe-too-many-leaves"


def test_trees_that_are_leaves_themselves_are_no_model():
    with pytest.raises(BackendError, match="does not depend"):
        plan_numbers([], OWNER, table_bits=4)


# What clients do

TABLE = LeafTable(numbers=(0, 1, -1, 0), leaves=((3, 0), (1, 2)))
SUMS = SumSteps((0.5, 2.0), (1.0, -1.0), complement=False, trees=(TABLE, TABLE))


def test_numbers_become_raw_outputs():
    numbers = np.array([[0, 1], [3, 0]])
    assert raw_outputs(numbers, SUMS).tolist() == [[3.0, 3.0], [4.0, -1.0]]


@pytest.mark.parametrize("number", [-1, 2, 4, 99])
def test_a_number_that_no_input_gives_is_refused(number):
    with pytest.raises(FormatError, match="names no leaf") as caught:
        raw_outputs(np.array([[0, number]]), SUMS)
    assert caught.value.code == "fhe-result-mismatch"


def test_tables_of_leaves_survive_json():
    assert parse_sums(json.loads(json.dumps(steps_to_json(SUMS)))) == SUMS
    assert "trees" not in steps_to_json(replace(SUMS, trees=()))


@pytest.mark.parametrize(
    "change",
    [
        {"numbers": []},
        {"numbers": [0] * 257},
        {"numbers": [2]},
        {"numbers": [-2]},
        {"numbers": [True]},
        {"numbers": [0.0]},
        {"numbers": None},
        {"leaves": []},
        {"leaves": [[1]]},
        {"leaves": [[1, 2], [3]]},
        {"leaves": [[1, -2]]},
        {"leaves": [[1, 1 << 32]]},
        {"leaves": [[1, 0.5]]},
        {"leaves": [1]},
        {"leaves": None},
        {"more": 1},
    ],
)
def test_parsing_refuses_changed_tables_of_leaves(change):
    changed = {**table_to_json(TABLE), **change}
    with pytest.raises(FormatError):
        parse_table(changed, outputs=2)
    with pytest.raises(FormatError):
        parse_sums({**steps_to_json(SUMS), "trees": [changed]})


@pytest.mark.parametrize("trees", [{}, "x", None, [None], [[]], 1])
def test_parsing_refuses_what_is_no_list_of_tables(trees):
    with pytest.raises(FormatError):
        parse_sums({**steps_to_json(SUMS), "trees": trees})
