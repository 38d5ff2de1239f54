"""Too many look-ups are refused before the trees are cut, and only too many."""

import random
import time

import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from privacy.errors import BackendError
from privacy.fhe import levels, plan
from privacy.fhe.binning import BitNode, leaves
from privacy.fhe.blocks import cut
from privacy.fhe.leaf_numbers import plan_numbers
from privacy.fhe.least import least_blocks
from privacy.fhe.levels import most_features
from privacy.fhe.tree_choice import draft_at
from privacy.trees import ensemble_of

FEATURES, BITS = 12, 3
OWNER = tuple(i for i in range(FEATURES) for _ in range(BITS))


RANGES = [(i * BITS, (i + 1) * BITS) for i in range(FEATURES)]


def leaf(value):
    return BitNode(value=(float(value),))


def grow(rng, tests, undecided):
    """Return a tree of so many tests at random, none decided on the way to it."""
    usable = [i for i, (low, high) in enumerate(undecided) if low < high]
    if not tests or not usable:
        return leaf(rng.choice([0, 0, 1, 1, 2]))
    at = rng.choice(usable)
    low, high = undecided[at]
    bit, left = rng.randrange(low, high), rng.randrange(tests)
    rest = [[*undecided], [*undecided]]
    rest[0][at], rest[1][at] = (low, bit), (bit + 1, high)
    below, above = grow(rng, left, rest[0]), grow(rng, tests - 1 - left, rest[1])
    return below if below == above else BitNode(bit, below, above)


def chain(first, end, node=1.0):
    """Return a tree that is 0 but where a bit of each of some features is 1."""
    node = leaf(node) if isinstance(node, float) else node
    for feature in reversed(range(first, end)):
        node = BitNode(feature * BITS, leaf(0), node)
    return node


@pytest.fixture
def short_search(monkeypatch):
    """Let weights be searched for functions of three features at most: it is quick."""
    caches = levels._search, most_features
    monkeypatch.setattr(levels, "_MOST", 30_000)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_no_more_blocks_are_counted_than_a_tree_is_cut_into(short_search):
    assert most_features(16) == 3
    rng, counted, cut_into = random.Random(0), 0, 0
    for tests in (3, 6, 9) * 5:
        tree = grow(rng, tests, RANGES[4:])
        for feature in range(rng.randrange(5)):
            other = BitNode(value=(float(rng.choice([0, 0, 1])),))
            sides = (tree, other) if rng.random() < 0.5 else (other, tree)
            tree = tree if tree == other else BitNode(feature * BITS + 1, *sides)
        least, blocks = least_blocks(tree, OWNER, 16), len(cut(tree, OWNER, 16))
        assert least <= blocks
        counted, cut_into = counted + least, cut_into + blocks
    assert 0 < counted <= cut_into


@pytest.mark.parametrize(
    ("ends", "blocks"),
    [
        ((leaf(1), leaf(2)), 1),  # one test of two ways, under seven conditions: 16
        ((leaf(1), chain(8, 9, 2.0)), 2),
        ((chain(8, 9, 1.0), chain(9, 10, 2.0)), 2),
        ((leaf(0), chain(8, 9, 2.0)), 1),
    ],
)
def test_leaves_under_many_conditions_take_a_block_each(short_search, ends, blocks):
    tree = chain(0, 7, BitNode(7 * BITS, *ends))
    assert len(cut(tree, OWNER, 16)) == blocks
    assert least_blocks(tree, OWNER, 16) == blocks


@pytest.mark.parametrize("size", [8, 16, 32])
def test_no_function_of_more_features_is_searched(size):
    few = most_features(size)
    assert not few or levels._is_searched((2,) * few, size)
    for shape in shapes(size - 1):
        assert len(shape) <= few or not levels._is_searched(shape, size)


def shapes(room, least=1):
    """Yield how many states features may have, one more than levels they take."""
    yield ()
    for levels_ in range(least, room + 1):
        for others in shapes(room - levels_, levels_):
            yield (levels_ + 1, *others)


def test_a_path_that_no_table_counts_is_too_deep_for_both():
    for attempt in (least_blocks, cut):
        with pytest.raises(BackendError, match="4 conditions") as caught:
            attempt(chain(0, 4), OWNER, 4)
        assert caught.value.code == "fhe-tree-too-deep"


@pytest.mark.parametrize("most", [1, 2])
def test_look_ups_are_refused_as_soon_as_there_are_too_many(monkeypatch, most):
    trees = [chain(0, 2), chain(1, 4), chain(2, 6)]
    made = plan.plan(trees, OWNER, table_bits=4, sum_bits=5)
    assert len(made.look_ups) == 3
    monkeypatch.setattr(plan, "MAX_LOOK_UPS", most)
    with pytest.raises(BackendError, match=f"at most {most} are compiled") as caught:
        plan.plan(trees, OWNER, table_bits=4, sum_bits=5)
    assert caught.value.code == "fhe-too-many-look-ups"
    with pytest.raises(BackendError, match="look-ups"):
        plan_numbers(trees, OWNER, table_bits=4)


@pytest.mark.slow
def test_a_forest_of_a_hundred_deep_trees_is_refused_within_seconds():
    rows, truth = load_digits(return_X_y=True)
    model = RandomForestClassifier(random_state=0).fit(rows[:1300], truth[:1300])
    draft = draft_at(ensemble_of(model), rows[:1300], bins=16, sum_bits=8)
    assert sum(len(list(leaves(tree))) for tree in draft.whole) > plan.MAX_LOOK_UPS
    started = time.perf_counter()
    with pytest.raises(BackendError, match="at least") as caught:
        draft.plan()
    assert caught.value.code == "fhe-too-many-look-ups"
    assert time.perf_counter() - started < 20
