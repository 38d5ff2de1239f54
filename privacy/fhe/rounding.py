"""Round the leaves of trees to whole steps, so that their sums come close.

Leaf values are measured from the least leaf of their tree, each output by itself. In
whole steps the greatest leaves of all trees fit the sum together, so no input can
overflow it; and a step is so wide that they span what the exact ones do. Of 20 trees
alike and 31 steps each has one, a twentieth of all. Of more trees than steps some are
left out, and others say what they would have said.

Whether a leaf is rounded up or down is chosen for all trees together: leaf by leaf,
what brings the sums of the calibration rows that reach it closest to those of the exact
leaves, until nothing changes. What one tree's leaf lost another's makes good: about
half of the squared error of rounding each leaf by itself goes, more or less by the
model (ADR 6). So sums may be narrower, trees have fewer leaves that differ, and
circuits fewer look-ups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from privacy.fhe.backend import Floats, Ints
from privacy.fhe.binning import BitNode, leaves, walk

_SWEEPS = 20
_PRIOR_ROWS = 4
"""A leaf keeps as near its own value as if so many more rows asked for just that."""


@dataclass(frozen=True, slots=True)
class WholeTrees:
    """Trees in whole steps: an output is near `scale * sum of leaves + offset`.

    Attributes:
        trees: Tests that no longer matter are left out; every tree's least leaf is 0.
        scale: The width of a step, (outputs,).
        offset: Likewise.
    """

    trees: tuple[BitNode, ...]
    scale: Floats
    offset: Floats


def round_leaves(trees: Sequence[BitNode], bits: Ints, sum_bits: int) -> WholeTrees:
    """Return trees whose leaves are whole steps, as fine as sums have bits for.

    Args:
        trees: Trees on bits; leaves hold a value for each output.
        bits: Of the calibration rows, (rows, bits).
        sum_bits: All sums are from 0 to below `2**sum_bits`.
    """
    values = [np.array(list(leaves(tree))) for tree in trees]
    least = np.array([v.min(axis=0) for v in values])
    span = np.array([np.ptp(v, axis=0) for v in values])
    scale, most = _scale(span, (1 << sum_bits) - 1)
    exact = [(v - low) / scale for v, low in zip(values, least, strict=True)]
    reached = [reached_leaves(tree, bits) for tree in trees]
    steps, missing = _together(exact, most, reached)
    whole = [put_leaves(tree, iter(s)) for tree, s in zip(trees, steps, strict=True)]
    return WholeTrees(tuple(whole), scale, least.sum(axis=0) + scale * missing)


def walk_sums(trees: Sequence[BitNode], bits: Ints) -> Ints:
    """Return the sums of whole trees' leaves for rows of bits, (rows, outputs)."""
    total: Ints = sum(walk(tree, bits) for tree in trees).astype(np.int64)  # type: ignore[union-attr]
    return total


def _scale(span: Floats, limit: int) -> tuple[Floats, Floats]:
    """Return the width of steps, (outputs,), and what each tree may give at most.

    Args:
        span: What the leaves of each tree span, (trees, outputs).
        limit: What the trees of an output may give together, in steps.

    Returns:
        Steps in which the spans add up to what the trees may give together, 1 where
        they are nothing; and whole numbers, (trees, outputs), of a sum up to the limit.
    """
    scale: Floats = span.sum(axis=0) / limit
    scale[scale < np.finfo(np.float64).tiny] = 1.0
    finest = span / scale
    while (over := np.rint(span / scale).sum(axis=0) > limit).any():
        scale[over] *= 1.001  # rounding up took the sum over: a notch coarser
    most = np.rint(span / scale)
    for output in np.flatnonzero(2 * most.sum(axis=0) < limit):
        most[:, output] = _shared_out(finest[:, output], limit)
    total = most.sum(axis=0)
    return np.where(total > 0, span.sum(axis=0) / np.maximum(total, 1), 1.0), most


def _shared_out(share: Floats, limit: int) -> Floats:
    """Return whole numbers near shares of a limit: most go to who loses most."""
    most = np.floor(share)
    room = int(min(np.rint(share.sum()), limit) - most.sum())
    most[np.argsort(most - share, kind="stable")[: max(room, 0)]] += 1
    return most


def _together(
    exact: Sequence[Floats], most: Floats, reached: Sequence[Ints]
) -> tuple[list[Floats], Floats]:
    """Return each tree's leaves in whole steps, and what their sums lack on average.

    Args:
        exact: The leaves of each tree in steps, (leaves, outputs); the least are 0.
        most: What the leaves of each tree may hold, (trees, outputs).
        reached: The number of the leaf of each tree that rows reach, (rows,).
    """
    steps = [np.minimum(np.rint(v), top) for v, top in zip(exact, most, strict=True)]
    pairs = zip(exact, steps, reached, strict=True)
    lack = np.sum([(v - s)[at] for v, s, at in pairs], axis=0)
    counts = [
        np.bincount(at, minlength=len(v))[:, None] + _PRIOR_ROWS
        for v, at in zip(exact, reached, strict=True)
    ]
    for _ in range(_SWEEPS):
        before = lack
        centred = lack - lack.mean(axis=0)
        for t, (values, at) in enumerate(zip(exact, reached, strict=True)):
            wanted = _sums(centred + steps[t][at], at, len(values))
            near = np.rint((wanted + _PRIOR_ROWS * values) / counts[t])
            near = near.clip(np.floor(values), np.ceil(values)).clip(None, most[t])
            moved = (steps[t] - near)[at]
            steps[t], centred, lack = near, centred + moved, lack + moved
        if np.array_equal(lack, before):
            break
    return steps, lack.mean(axis=0)


def _sums(rows: Floats, at: Ints, leaves: int) -> Floats:
    """Return the sum of the rows that reach each leaf, (leaves, outputs)."""
    columns = [np.bincount(at, weights=column, minlength=leaves) for column in rows.T]
    return np.stack(columns, axis=1)


def reached_leaves(tree: BitNode, bits: Ints) -> Ints:
    """Return the number of the leaf that each row of bits reaches, (rows,)."""
    numbers = np.arange(len(list(leaves(tree))), dtype=np.float64)[:, None]
    reached: Ints = walk(put_leaves(tree, iter(numbers)), bits)[:, 0].astype(np.int64)
    return reached


def put_leaves(tree: BitNode, values: Iterator[Floats]) -> BitNode:
    """Return the tree with other values, without tests that no longer matter.

    Args:
        tree: The tree.
        values: Of its leaves, in order, (outputs,) each.
    """
    if tree.children is None:
        return BitNode(value=tuple(next(values).astype(np.float64).tolist()))
    below, above = (put_leaves(child, values) for child in tree.children)
    return below if below == above else BitNode(tree.bit, below, above)
