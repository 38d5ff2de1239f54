"""Cut a tree on bits into as few blocks as can each be one table look-up.

A block is the top of a subtree, reached if all its conditions hold. What it leaves out,
off its conditions or below its top, gives 0: another block answers for it. So of a
tree's blocks at most one is not 0, whatever the input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privacy.errors import BackendError
from privacy.fhe.binning import BitNode, leaves
from privacy.fhe.indices import Block, Condition, fits

ZERO = BitNode(value=(0.0,))


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
        if fits(Block(held, node), self._owner, self._size):
            return [Block(held, node)]
        if node.children is None:
            raise too_deep(len(held), self._size)
        best: list[Block] | None = None
        for top, cuts, _ in _tops(node, (), self._size.bit_length()):
            block = Block(held, top)
            if not fits(block, self._owner, self._size):
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


def too_deep(conditions: int, size: int) -> BackendError:
    """Return the error of a path that no table of `size` entries can count."""
    msg = (
        f"a path of {conditions} conditions is longer than a table of {size} can "
        "count: limit the depth of the trees"
    )
    return BackendError(msg, code="fhe-tree-too-deep")


def _along(
    held: tuple[Condition, ...], path: Sequence[Condition], owner: Sequence[int]
) -> tuple[Condition, ...]:
    """Add conditions from the root down; each implies those of its kind above."""
    for bit, is_one in path:
        kind = owner[bit], is_one
        held = (*(h for h in held if (owner[h[0]], h[1]) != kind), (bit, is_one))
    return held


def _is_silent(node: BitNode) -> bool:
    return not any(value for (value,) in leaves(node))
