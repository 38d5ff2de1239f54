"""How many blocks a tree takes at least, without cutting it.

To cut a deep tree takes seconds, and a forest has hundreds. What is counted here are
leaves that are not 0 and can share no block, since each is in one:

- A block that fits by `index_size` needs an entry for each way its tests may end, times
  the conditions to reach it. So a leaf whose path tests many features lies in blocks
  that begin just above it; as many blocks are needed as it takes places to begin.
- One that fits by `fit` depends on few features. All conditions to reach it count; a
  test on the way to a leaf counts unless the same value is on its other side, too.
  Leaves of which that may be so are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from privacy.fhe.binning import BitNode
from privacy.fhe.blocks import too_deep
from privacy.fhe.levels import most_features


def least_blocks(tree: BitNode, owner: Sequence[int], size: int) -> int:
    """Return a number of blocks that `privacy.fhe.blocks.cut` gives or exceeds.

    Args:
        tree: Leaves hold one whole number each.
        owner: The feature of each bit.
        size: Entries of a table.

    Raises:
        BackendError: A path has more conditions than a table can count.
    """
    bound = _Bound(owner, size)
    bound.learn(tree)
    bound.count(tree, _Way((), (), (0,)))
    return bound.blocks


@dataclass(frozen=True, slots=True)
class _Way:
    """The way from the root to a node.

    Attributes:
        features: Of the tests on it.
        others: The children that it did not take.
        held: How many features are tested above each node on it, the last included.
    """

    features: tuple[int, ...]
    others: tuple[BitNode, ...]
    held: tuple[int, ...]

    def to(self, feature: int, other: BitNode) -> "_Way":
        features = (*self.features, feature)
        held = (*self.held, self.held[-1] + (feature not in self.features))
        return _Way(features, (*self.others, other), held)


_FAR = 1 << 30


class _Bound:
    def __init__(self, owner: Sequence[int], size: int) -> None:
        self._owner, self._size = owner, size
        self._tests = size.bit_length()
        """As many as `cut` has in the top of a subtree; `fit` fits whole ones, too."""
        self._features = most_features(size)
        self._near: dict[int, dict[float, int]] = {}
        self._sure: dict[int, frozenset[int]] = {}
        self.blocks = 0

    def learn(self, node: BitNode) -> None:
        """Note after how many tests each value is met below every node.

        And features that what is below is sure to depend on: where a value is met on
        one side of a test only, those who are there would get another on the other.
        """
        if node.children is None:
            self._near[id(node)], self._sure[id(node)] = {node.value[0]: 0}, frozenset()
            return
        below, above = node.children
        self.learn(below)
        self.learn(above)
        near, other = self._near[id(below)], self._near[id(above)]
        sure = self._sure[id(below)] | self._sure[id(above)]
        if near.keys() != other.keys():
            sure |= {self._owner[node.bit]}
        self._sure[id(node)] = sure
        self._near[id(node)] = {
            value: 1 + min(near.get(value, _FAR), other.get(value, _FAR))
            for value in near.keys() | other.keys()
        }

    def count(self, node: BitNode, way: _Way, whole: int = _FAR) -> int:
        """Count the places where blocks of a subtree must begin, from below.

        Args:
            node: The subtree.
            way: To it.
            whole: The depth of the highest subtree on it that `fit` may fit whole.

        Returns:
            How deep those may begin at most that leaves in it wait for; -1 if none do.
        """
        depth = len(way.features)
        if len(self._sure[id(node)].union(way.features)) <= self._features:
            whole = min(whole, depth)
        if node.children is None:
            value = node.value[0]
            free = not value or self._may_share(way, value, whole)
            waiting = -1 if free else self._begins(way)
        else:
            below, above = node.children
            feature = self._owner[node.bit]
            waiting = max(
                self.count(below, way.to(feature, above), whole),
                self.count(above, way.to(feature, below), whole),
            )
        if waiting == depth:
            self.blocks += 1
            return -1
        return waiting

    def _begins(self, way: _Way) -> int:
        """Return the least depth at which a block with the leaf may begin."""
        if way.held[-1] >= self._size:
            raise too_deep(way.held[-1], self._size)
        least, seen, product = len(way.features), dict[int, int](), 1
        for depth in reversed(range(least)):
            feature = way.features[depth]
            tests = seen[feature] = seen.get(feature, 0) + 1
            product = product // tests * (tests + 1)
            if (1 + way.held[depth]) * product <= self._size:
                least = depth
        return least

    def _may_share(self, way: _Way, value: float, whole: int) -> bool:
        """Return whether a block with the leaf may depend on few of its features."""
        needless = way.held[-1] - self._features
        if needless <= 0:
            return True
        depth = len(way.features)
        near = [self._near[id(other)].get(value, _FAR) for other in way.others]
        if sum(tests < _FAR for tests in near[whole:]) >= needless:
            return True
        top = max(depth - self._tests, 0)
        few = [near[at] + depth - at <= self._tests for at in range(top, depth)]
        return way.held[top] <= self._features and sum(few) >= needless
