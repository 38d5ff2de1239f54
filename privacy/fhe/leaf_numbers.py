"""Plan a circuit that answers with the number of each tree's leaf.

One small sum a tree, however many outputs it has; the client has what the leaves hold
(`privacy.fhe.leaf_tables`).

A number is made of digits where that takes fewer look-ups. To number the 16 leaves of a
full tree of depth 4 one by one takes eight. But one look-up says which grandchild of
the root is reached; and two grandchildren, one from either side of the root, are
together a tree of depth 3, which takes two look-ups and gives a digit: five in all. Of
the digits of both such trees one says where in the grandchild the leaf is; the other
says where the row would go in another one, and means nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Ints
from privacy.fhe.binning import BitNode, leaves, walk
from privacy.fhe.blocks import cut
from privacy.fhe.indices import Block
from privacy.fhe.leaf_tables import NO_LEAF, LeafTable
from privacy.fhe.least import least_blocks
from privacy.fhe.plan import (
    MAX_LOOK_UPS,
    LookUp,
    Plan,
    check_count,
    check_indices,
    look_up,
)

_Leaf = tuple[float, ...]
_MOST_NUMBERS = (1 << 6, 1 << 8)
"""What the sums of the first key set that ships hold, and those of the second."""


@dataclass(frozen=True, slots=True)
class Numbering:
    """Numbers for the leaves of a tree.

    Attributes:
        digits: Trees whose leaves hold what they add to the number.
        leaf_of: What the leaf of each number holds; None if no input gives it.
    """

    digits: tuple[BitNode, ...]
    leaf_of: tuple[_Leaf | None, ...]

    def walk(self, bits: Ints) -> Ints:
        """Return the number for each row of bits by walking the digits' trees."""
        found = [walk(digit, bits)[:, 0] for digit in self.digits]
        total: Ints = np.sum(found, axis=0).astype(np.int64)
        return total

    def table(self) -> LeafTable:
        """Return what clients need to know."""
        places: dict[_Leaf, int] = {}
        for leaf in self.leaf_of:
            if leaf is not None:
                places.setdefault(leaf, len(places))
        return LeafTable(
            numbers=tuple(NO_LEAF if x is None else places[x] for x in self.leaf_of),
            leaves=tuple(tuple(map(int, leaf)) for leaf in places),
        )


def plan_numbers(
    trees: Sequence[BitNode], owner: Sequence[int], *, table_bits: int
) -> tuple[Plan, tuple[Numbering, ...]]:
    """Return the look-ups that compute the number of each tree's leaf.

    Args:
        trees: Trees on bits, none a leaf; leaves hold whole steps of each output.
        owner: The feature of each bit; bits of one feature ascend with their edges.
        table_bits: A table has `2**table_bits` entries.

    Raises:
        BackendError: There is no tree, a path has more conditions than a table can
            count, there are too many look-ups, or a tree has more leaves than a sum
            can number.
    """
    if not trees:
        msg = "the model's answer does not depend on its input"
        raise BackendError(msg, code="fhe-constant-model")
    size, look_ups, chosen = 1 << table_bits, list[LookUp](), list[Numbering]()
    least = [0] * len(trees)
    if sum(len(list(leaves(tree))) for tree in trees) > MAX_LOOK_UPS:
        least = [_least(tree, owner, size) for tree in trees]
    for i, tree in enumerate(trees):
        check_count(len(look_ups), sum(least[i:]))
        numbering, blocks = min(
            ((n, _blocks(n, owner, size)) for n in _usable(tree)),
            key=lambda found: (len(found[1]), len(found[0].leaf_of)),
        )
        into = np.eye(len(trees))[i]
        look_ups += [look_up(block, owner, table_bits, into) for block in blocks]
        chosen.append(numbering)
    check_count(len(look_ups))
    most = max(len(n.leaf_of) for n in chosen)
    made = Plan(tuple(look_ups), len(trees), table_bits, (most - 1).bit_length())
    check_indices(made, owner)
    return made, tuple(chosen)


def _blocks(numbering: Numbering, owner: Sequence[int], size: int) -> list[Block]:
    return [b for digit in numbering.digits for b in cut(digit, owner, size)]


def _least(tree: BitNode, owner: Sequence[int], size: int) -> int:
    """Return a number of look-ups that a tree's numbers take or exceed."""
    return min(
        sum(least_blocks(digit, owner, size) for digit in numbering.digits)
        for numbering in _usable(tree)
    )


def _usable(tree: BitNode) -> list[Numbering]:
    numberings = list(_numberings(tree))
    for most in _MOST_NUMBERS:
        if found := [n for n in numberings if len(n.leaf_of) <= most]:
            return found
    msg = f"a tree has more leaves than {_MOST_NUMBERS[-1]}, which a sum can number"
    raise BackendError(msg, code="fhe-too-many-leaves")


def _numberings(tree: BitNode) -> Iterator[Numbering]:
    yield Numbering((_numbered(tree, 1),), _distinct(tree))
    if tree.children is not None:
        halves = tuple(child.children or (child,) for child in tree.children)
        for crossed in (False, True):
            if found := _in_digits(tree, tree.children, halves, crossed=crossed):
                yield found


def _in_digits(
    tree: BitNode,
    children: tuple[BitNode, BitNode],
    halves: tuple[tuple[BitNode, ...], ...],
    *,
    crossed: bool,
) -> Numbering | None:
    """Return numbers of three digits: which half of a child, and a place in each pair.

    None if there are more of them than a sum can hold.

    Args:
        tree: The whole tree.
        children: Of its root.
        halves: The children of each, or itself if it is a leaf.
        crossed: The halves below one child and above the other are a pair, not those
            on the same side of both.
    """
    places = [(side, at) for side in (0, 1) for at in range(len(halves[side]))]
    parts = [halves[side][at] for side, at in places]
    pair_of = [at ^ (side and crossed) for side, at in places]
    number = iter(range(len(parts)))
    tops = [
        _top(child, [_leaf(next(number)) for _ in halves[side]])
        for side, child in enumerate(children)
    ]
    digits, stride, spans = [_top(tree, tops)], len(parts), list[tuple[int, int]]()
    for pair in (0, 1):
        mine = [half for half, of in zip(parts, pair_of, strict=True) if of == pair]
        if mine:
            digits.append(_top(tree, [_numbered(half, stride) for half in mine]))
        base = max((len(_distinct(half)) for half in mine), default=1)
        spans.append((stride, base))
        stride *= base
    if stride > _MOST_NUMBERS[-1]:
        return None
    held = [_distinct(half) for half in parts]
    leaf_of = list[_Leaf | None]()
    for n in range(stride):
        part = n % len(parts)
        step, base = spans[pair_of[part]]
        place = n // step % base
        leaf_of.append(held[part][place] if place < len(held[part]) else None)
    return Numbering(tuple(digits), tuple(leaf_of))


def _top(node: BitNode, children: Sequence[BitNode]) -> BitNode:
    """Return a node with other children; the only one if there is but one."""
    if len(children) == 1:
        return children[0]
    below, above = children
    return BitNode(node.bit, below, above)


def _leaf(number: int) -> BitNode:
    return BitNode(value=(float(number),))


def _distinct(tree: BitNode) -> tuple[_Leaf, ...]:
    return tuple(dict.fromkeys(leaves(tree)))


def _numbered(tree: BitNode, stride: int) -> BitNode:
    """Return a tree whose leaves hold the places of theirs, times `stride`."""
    places = {leaf: n for n, leaf in enumerate(_distinct(tree))}

    def number(node: BitNode) -> BitNode:
        if node.children is None:
            return _leaf(stride * places[node.value])
        return _top(node, [number(child) for child in node.children])

    return number(tree)
