"""Move leaves by a step where few rows reach them and a look-up is saved.

Which trees fit how many tables depends on which leaves are alike. Often a single leaf
that one row in a hundred reaches is what takes one more look-up; a step up or down, it
is like another. The answers to those few rows change by that one step.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.binning import BitNode, leaves
from privacy.fhe.plan import count_look_ups
from privacy.fhe.rounding import put_leaves, reached_leaves

_RARE = 0.03
"""A leaf may be moved if it is reached by at most this share of the rows."""
_MOVES = 2
"""So many leaves of a tree are moved at most."""
_MOST_LEAVES = 1024
"""Numbers in all leaves: beyond, the search would take minutes."""


def thrifty(
    trees: Sequence[BitNode], bits: Ints, owner: Sequence[int], size: int
) -> tuple[BitNode, ...]:
    """Return trees that take as many look-ups or fewer, no sum of which is greater.

    Args:
        trees: In whole steps, as `round_leaves` gives them.
        bits: Of the calibration rows, (rows, bits).
        owner: The feature of each bit.
        size: Entries of a table. Trees that do not fit such tables stay as they are.
    """
    if sum(np.size(list(leaves(tree))) for tree in trees) > _MOST_LEAVES:
        return tuple(trees)
    try:
        return tuple(_moved(tree, bits, owner, size) for tree in trees)
    except BackendError:  # a path is too long for the table
        return tuple(trees)


def _moved(tree: BitNode, bits: Ints, owner: Sequence[int], size: int) -> BitNode:
    fewest = count_look_ups(tree, owner, size)
    for _ in range(_MOVES):
        for other in _others(tree, bits) if fewest > 1 else ():
            if (count := count_look_ups(other, owner, size)) < fewest:
                tree, fewest = other, count
                break
        else:
            return tree
    return tree


def _others(tree: BitNode, bits: Ints) -> Iterator[BitNode]:
    """Yield trees with one leaf moved by a step in one output, the rarest first."""
    values: Floats = np.array(list(leaves(tree)))
    rows = np.bincount(reached_leaves(tree, bits), minlength=len(values))
    for leaf in np.argsort(rows, kind="stable"):
        if rows[leaf] > _RARE * len(bits):
            return
        for output in range(values.shape[1]):
            for step in (-1, 1):
                moved = values.copy()
                moved[leaf, output] += step
                mine = moved[:, output]
                # its least leaf stays 0, and no sum can grow
                if mine.min() == 0 and mine.max() <= values[:, output].max():
                    yield put_leaves(tree, iter(moved))
