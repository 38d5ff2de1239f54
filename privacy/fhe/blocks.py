"""Cut a tree on bits into as few blocks as can each be one table look-up.

A block is the top of a subtree, reached if all its conditions hold. Its index is

    (how many conditions hold) + stride * (code of the tests)

which is a linear function of bits. Two facts about thermometers keep it small:
conditions of one feature and kind are one, the strictest, and of `above this edge` and
`not above that higher one` at least one always holds; and `g` tests of one feature have
only `g + 1` outcomes, which their sum tells apart.

What the block leaves out, off its conditions or below its top, gives 0: another block
answers for it. So of a tree's blocks at most one is not 0, whatever the input.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Ints
from privacy.fhe.binning import BitNode, leaves, walk

Condition = tuple[int, bool]
"""A bit, and whether it must be 1."""
ZERO = BitNode(value=(0.0,))


@dataclass(frozen=True, slots=True)
class Block:
    """The top of a subtree and the conditions to reach it.

    Attributes:
        conditions: One a feature and kind.
        top: A tree whose leaves hold one whole number each.
    """

    conditions: tuple[Condition, ...]
    top: BitNode


@dataclass(frozen=True, slots=True)
class Index:
    """`constant + sum(weights * bits)`, and the entries of the table it reaches.

    Attributes:
        size: All indices are from 0 to below it.
        on: Pairs of an index and the whole number there; all others hold 0.
    """

    bits: tuple[int, ...]
    weights: tuple[int, ...]
    constant: int
    size: int
    on: tuple[tuple[int, int], ...]


def cut(tree: BitNode, owner: Sequence[int], size: int) -> list[Block]:
    """Return the fewest blocks whose tables have at most `size` entries.

    Args:
        tree: Leaves hold one whole number each.
        owner: The feature of each bit; bits of one feature ascend with their edges.
        size: Entries of a table.

    Raises:
        BackendError: A path has more conditions than a table can count.
    """
    return _Cutter(owner, size).cut(tree, ())


class _Cutter:
    """Cuts each subtree once, though many tops leave it out."""

    def __init__(self, owner: Sequence[int], size: int) -> None:
        self._owner, self._size = owner, size
        self._done: dict[int, list[Block]] = {}

    def cut(self, node: BitNode, held: tuple[Condition, ...]) -> list[Block]:
        if id(node) not in self._done:
            self._done[id(node)] = self._cut(node, held)
        return self._done[id(node)]

    def _cut(self, node: BitNode, held: tuple[Condition, ...]) -> list[Block]:
        if _is_silent(node):
            return []
        if index_size(Block(held, node), self._owner) <= self._size:
            return [Block(held, node)]
        if node.children is None:
            msg = (
                f"a path of {len(held)} conditions is longer than a table of "
                f"{self._size} can count: limit the depth of the trees"
            )
            raise BackendError(msg, code="fhe-tree-too-deep")
        best: list[Block] | None = None
        for top, cuts, _ in _tops(node, (), self._size.bit_length()):
            block = Block(held, top)
            if index_size(block, self._owner) > self._size:
                continue
            found = [] if _is_silent(top) else [block]
            found += self._rest(cuts, held)
            best = found if best is None or len(found) < len(best) else best
        if best is None:  # not even one test fits beside the conditions
            both = enumerate(node.children)
            cuts = tuple(_Cut(c, ((node.bit, bool(i)),)) for i, c in both)
            return self._rest(cuts, held)
        return best

    def _rest(
        self, cuts: "tuple[_Cut, ...]", held: tuple[Condition, ...]
    ) -> list[Block]:
        return [
            block
            for c in cuts
            for block in self.cut(c.node, _along(held, c.path, self._owner))
        ]


@dataclass(frozen=True, slots=True)
class _Cut:
    """A subtree left to other blocks, and the way to it from the top's root."""

    node: BitNode
    path: tuple[Condition, ...]


def _tops(
    node: BitNode, path: tuple[Condition, ...], tests: int
) -> Iterator[tuple[BitNode, tuple[_Cut, ...], int]]:
    """Yield tops of at most `tests` tests, what each leaves out, and its tests."""
    if node.children is None:
        yield node, (), 0
        return
    if path:
        yield ZERO, (_Cut(node, path),), 0
    if not tests:
        return
    below, above = node.children
    for left, out, used in _tops(below, (*path, (node.bit, False)), tests - 1):
        for right, more, also in _tops(
            above, (*path, (node.bit, True)), tests - 1 - used
        ):
            yield BitNode(node.bit, left, right), out + more, used + also + 1


def leaf_blocks(
    tree: BitNode, owner: Sequence[int], held: tuple[Condition, ...] = ()
) -> Iterator[tuple[Block, tuple[float, ...]]]:
    """Yield, for each leaf, the block that is 1 where it is reached, and its values."""
    if tree.children is None:
        yield Block(held, BitNode(value=(1.0,))), tree.value
        return
    for i, child in enumerate(tree.children):
        along = _along(held, ((tree.bit, bool(i)),), owner)
        yield from leaf_blocks(child, owner, along)


def _along(
    held: tuple[Condition, ...], path: Sequence[Condition], owner: Sequence[int]
) -> tuple[Condition, ...]:
    """Add conditions from the root down; each implies those of its kind above."""
    for bit, is_one in path:
        kind = owner[bit], is_one
        held = (*(h for h in held if (owner[h[0]], h[1]) != kind), (bit, is_one))
    return held


def index_size(block: Block, owner: Sequence[int]) -> int:
    """Return how many entries a block's table needs."""
    tests = Counter(owner[bit] for bit in _tests(block.top))
    return _levels(block, owner) * math.prod(g + 1 for g in tests.values())


def index_of(block: Block, owner: Sequence[int]) -> Index:
    """Return a block's index and table."""
    levels = stride = _levels(block, owner)
    between = len(block.conditions) + 1 - levels
    bits = [bit for bit, _ in block.conditions]
    weights = [1 if is_one else -1 for _, is_one in block.conditions]
    codes: list[tuple[dict[int, int], int]] = [({}, levels - 1)]
    for feature in sorted({owner[bit] for bit in _tests(block.top)}):
        mine = sorted(bit for bit in _tests(block.top) if owner[bit] == feature)
        bits += mine
        weights += [stride] * len(mine)
        codes = [
            ({**given, **{b: int(i < n) for i, b in enumerate(mine)}}, at + stride * n)
            for given, at in codes
            for n in range(len(mine) + 1)
        ]
        stride *= len(mine) + 1
    return Index(
        bits=tuple(bits),
        weights=tuple(weights),
        constant=sum(not is_one for _, is_one in block.conditions) - between,
        size=stride,
        on=tuple((at, _value(block.top, given)) for given, at in codes),
    )


def _is_silent(node: BitNode) -> bool:
    return not any(value for (value,) in leaves(node))


def _levels(block: Block, owner: Sequence[int]) -> int:
    """Return how many counts of satisfied conditions there can be."""
    kinds = Counter(owner[bit] for bit, _ in block.conditions)
    return 1 + len(kinds)


def _tests(node: BitNode) -> set[int]:
    if node.children is None:
        return set()
    below, above = node.children
    return {node.bit} | _tests(below) | _tests(above)


def _value(top: BitNode, given: dict[int, int]) -> int:
    row: Ints = np.zeros((1, max(given, default=0) + 1), dtype=np.int64)
    for bit, value in given.items():
        row[0, bit] = value
    return int(walk(top, row)[0, 0])
