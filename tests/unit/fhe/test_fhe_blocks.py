"""Planning trees as look-ups, by clear evaluation: the plan equals the trees."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import BackendError
from privacy.fhe.binning import BitNode
from privacy.fhe.blocks import cut
from privacy.fhe.indices import Block, index_of, index_size
from privacy.fhe.plan import check_indices, evaluate, plan
from privacy.fhe.rounding import round_leaves, walk_sums

OWNER = (0, 0, 0, 1, 1, 2, 3, 3, 3, 3)


def thermometers():
    """Every input: each feature's bits are ones, then zeros."""
    counts = [OWNER.count(f) for f in range(4)]
    heights = product(*(range(c + 1) for c in counts))
    return np.array(
        [
            [int(i < h) for h, c in zip(hs, counts, strict=True) for i in range(c)]
            for hs in heights
        ]
    )


INPUTS = thermometers()


RANGES = {f: (OWNER.index(f), OWNER.index(f) + OWNER.count(f)) for f in range(4)}


@st.composite
def trees(draw, outputs=1, depth=5, undecided=None):
    """A tree on the bits of `OWNER`, no test of which is decided on the way to it."""
    undecided = undecided or RANGES
    bits = [bit for low, high in undecided.values() for bit in range(low, high)]
    if depth == 0 or not bits or draw(st.integers(0, 4)) == 0:
        values = st.floats(-3, 3, width=16, allow_subnormal=False)
        return BitNode(value=tuple(draw(values) for _ in range(outputs)))
    bit = draw(st.sampled_from(bits))
    low, high = undecided[OWNER[bit]]
    below, above = (
        draw(trees(outputs, depth - 1, {**undecided, OWNER[bit]: rest}))
        for rest in ((low, bit), (bit + 1, high))
    )
    return BitNode(bit, below, above)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.lists(trees(outputs=2), min_size=1, max_size=4), st.sampled_from([4, 5]))
def test_a_plan_gives_what_walking_the_trees_gives_on_every_input(forest, table_bits):
    whole = round_leaves(forest, INPUTS, 6).trees
    walked = walk_sums(whole, INPUTS)
    if (walked == walked[0]).all():
        with pytest.raises(BackendError, match="does not depend"):
            plan(whole, OWNER, table_bits=table_bits, sum_bits=6)
        return
    made = plan(whole, OWNER, table_bits=table_bits, sum_bits=6)
    assert (evaluate(made, INPUTS) == walked).all()


@settings(deadline=None, max_examples=40)
@given(trees(depth=6))
def test_no_input_leaves_a_blocks_table_and_one_block_answers(tree):
    tree = _whole_numbers(tree)
    for block in cut(tree, OWNER, 16):
        index = index_of(block, OWNER, 16)
        at = index.constant + INPUTS[:, list(index.bits)] @ np.array(index.weights)
        assert at.min() >= 0
        assert at.max() < index.size <= 16


def _whole_numbers(tree):
    if tree.children is None:
        return BitNode(value=(float(abs(round(tree.value[0]))),))
    below, above = (_whole_numbers(c) for c in tree.children)
    return BitNode(tree.bit, below, above)


def full(depth, bit=0):
    """A full tree that tests another feature at each node; all leaves differ."""
    if depth == 0:
        return BitNode(value=(float(bit + 1),))
    return BitNode(bit, full(depth - 1, 2 * bit + 1), full(depth - 1, 2 * bit + 2))


@pytest.mark.parametrize(("depth", "blocks"), [(1, 1), (2, 1), (3, 2), (4, 8)])
def test_full_trees_take_as_few_look_ups_as_can_be(depth, blocks):
    assert len(cut(full(depth), range(31), 16)) == blocks


def test_tests_of_one_feature_share_a_digit_of_the_index():
    chain = BitNode(value=(9.0,))
    for bit in reversed(range(4)):
        chain = BitNode(6 + bit % 4, BitNode(value=(float(bit),)), chain)
    assert index_size(Block((), chain), OWNER) == 5
    assert len(cut(chain, OWNER, 8)) == 1


def test_conditions_that_bound_one_feature_count_as_one():
    leaf = BitNode(value=(1.0,))
    assert index_size(Block(((0, True), (2, False)), leaf), OWNER) == 2


def test_a_subtree_that_gives_nothing_takes_no_look_up():
    nothing = BitNode(value=(0.0,))
    assert cut(BitNode(0, nothing, nothing), OWNER, 16) == []


def test_a_wide_subtree_does_not_overflow_its_own_size():
    """64 tests of 64 features: 2**64 entries, which is 0 in 64 bits."""
    chain = BitNode(value=(1.0,))
    for bit in range(64):
        chain = BitNode(bit, BitNode(value=(float(bit),)), chain)
    assert index_size(Block((), chain), range(64)) == 2**64


def test_a_path_longer_than_a_table_can_count_is_refused():
    chain = BitNode(value=(0.0,))
    for bit in range(20):
        chain = BitNode(bit, BitNode(value=(bit + 1.0,)), chain)
    with pytest.raises(BackendError, match="limit the depth") as caught:
        cut(chain, range(20), 16)
    assert caught.value.code == "fhe-tree-too-deep"


def test_an_index_that_can_leave_its_table_is_refused():
    made = plan([full(3)], range(31), table_bits=4, sum_bits=6)
    for change in ({"constant": 99}, {"constant": -1}, {"table": (0,) * 8}):
        wrong = replace(made, look_ups=(replace(made.look_ups[0], **change),))
        with pytest.raises(BackendError, match="leaves its table"):
            check_indices(wrong, range(31))


def test_a_tree_of_many_outputs_takes_one_look_up_a_leaf():
    """Few leaves, many outputs: a leaf's look-up counts in every output's sum."""
    rng = np.random.default_rng(3)

    def leaf():
        return BitNode(value=tuple(rng.random(9)))

    tree = BitNode(0, BitNode(5, leaf(), leaf()), BitNode(3, leaf(), leaf()))
    whole = round_leaves([tree], INPUTS, 6).trees
    made = plan(whole, OWNER, table_bits=4, sum_bits=6)
    assert len(made.look_ups) == 4
    assert max(sum(map(bool, u.into)) for u in made.look_ups) > 4
    assert (evaluate(made, INPUTS) == walk_sums(whole, INPUTS)).all()
