"""Trees whose comparisons are bits of a thermometer, made from trained trees.

A trained tree asks `x <= threshold`. Here each threshold is replaced by the edge that
decides as it does on the most calibration rows, so that a comparison is one bit that
the client sends. With the model's own thresholds as edges nothing changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from privacy.fhe.backend import Floats, Ints
from privacy.fhe.thermometer import Edges
from privacy.trees import Ensemble, Node, float32_at_most, paths

_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class BitNode:
    """A test of one bit, `below` if it is 0 and `above` if 1; or a leaf's values.

    No test's outcome follows from those on the way to it.
    """

    bit: int = -1
    below: "BitNode | None" = None
    above: "BitNode | None" = None
    value: tuple[float, ...] = ()

    @property
    def children(self) -> "tuple[BitNode, BitNode] | None":
        """`below` and `above`, or None for a leaf."""
        if self.below is None or self.above is None:
            return None
        return self.below, self.above


def quantile_edges(calibration: Floats, bins: int) -> tuple[Edges, ...]:
    """Return edges that cut each feature's calibration values into at most `bins`.

    They lie between values: two of the same feature that differ, if it has few of
    them, and quantiles otherwise. A feature that never varies has none.
    """
    return tuple(_cuts(column, bins) for column in calibration.T)


def _cuts(column: Floats, bins: int) -> Edges:
    distinct = np.unique(column)
    if len(distinct) <= bins:
        cuts = [(a + b) / 2 for a, b in pairwise(distinct.tolist())]
    else:
        at = np.arange(1, bins) / bins
        cuts = np.quantile(column, at, method="midpoint").tolist()
    narrow = {float32_at_most(c) for c in cuts}
    return Edges(tuple(sorted(c for c in narrow if distinct[0] <= c < distinct[-1])))


def threshold_edges(ensemble: Ensemble, features: int) -> tuple[Edges, ...]:
    """Return the thresholds that the trees themselves use.

    Those too small for a normal float32 (XGBoost's `x < 0` is one) move to the next
    that is not: some libraries make the processor take them for 0.
    """
    used: list[set[float]] = [set() for _ in range(features)]
    for tree in ensemble.trees:
        for steps, _ in paths(tree):
            for feature, threshold, _ in steps:
                tiny = 0 < abs(threshold) < _SMALLEST
                near = -_SMALLEST if threshold < 0 else 0.0
                used[feature].add(near if tiny else threshold)
    return tuple(Edges(tuple(sorted(u))) for u in used)


def bin_trees(
    ensemble: Ensemble, edges: Sequence[Edges], calibration: Floats
) -> tuple[BitNode, ...]:
    """Return the trees with each threshold moved to an edge, useless tests left out."""
    binner = _Binner(edges, calibration)
    whole = {i: (0, len(e.edges)) for i, e in enumerate(edges)}
    return tuple(binner.bin(tree, whole) for tree in ensemble.trees)


class _Binner:
    def __init__(self, edges: Sequence[Edges], calibration: Floats) -> None:
        self._edges = [np.array(e.edges, dtype=np.float64) for e in edges]
        self._sorted = np.sort(calibration, axis=0)
        ends = np.cumsum([0, *(len(e.edges) for e in edges)])
        self._first = [int(end) for end in ends[:-1]]

    def bin(self, node: Node, open_: dict[int, tuple[int, int]]) -> BitNode:
        """Return a binned subtree.

        Args:
            node: The subtree.
            open_: For each feature the edges whose bits the path leaves undecided, as
                first and one past the last.
        """
        if node.left is None or node.right is None:
            return BitNode(value=node.value)
        low, high = open_[node.feature]
        at = self._nearest(node.feature, node.threshold)
        if at < low:  # decided above: the bit is 1
            return self.bin(node.right, open_)
        if at >= high:  # the bit is 0
            return self.bin(node.left, open_)
        below = self.bin(node.left, {**open_, node.feature: (low, at)})
        above = self.bin(node.right, {**open_, node.feature: (at + 1, high)})
        if below == above:
            return below
        return BitNode(self._first[node.feature] + at, below, above)

    def _nearest(self, feature: int, threshold: float) -> int:
        """Return the edge that decides most rows as the threshold does.

        -1 stands for an edge below, and the number of edges for one above, all rows.
        """
        edges, column = self._edges[feature], self._sorted[:, feature]
        wanted = np.searchsorted(column, threshold, side="right")
        under = np.searchsorted(column, edges, side="right")
        moved = np.abs(np.array([0, *under, len(column)]) - wanted)
        far = np.array([np.inf, *np.abs(edges - threshold), np.inf])
        return int(np.lexsort((far, moved))[0]) - 1


def owners(edges: Sequence[Edges]) -> tuple[int, ...]:
    """Return the feature that each bit belongs to."""
    return tuple(i for i, e in enumerate(edges) for _ in e.edges)


def leaves(tree: BitNode) -> Iterator[tuple[float, ...]]:
    """Yield the values of each leaf."""
    if tree.children is None:
        yield tree.value
        return
    for child in tree.children:
        yield from leaves(child)


def walk(tree: BitNode, bits: Ints) -> Floats:
    """Return the values of the leaf that each row of bits leads to, (rows, outputs)."""
    if tree.children is None:
        return np.tile(np.array(tree.value, dtype=np.float64), (len(bits), 1))
    below, above = (walk(child, bits) for child in tree.children)
    found: Floats = np.where(bits[:, [tree.bit]] == 1, above, below)
    return found
