"""Write trees as circuits take them best: one comparison for each depth of a tree.

Of the nodes at one depth of a tree, a row reaches one at most. So what that node
compares is selected first, and then compared: a comparison costs more than twenty
cells, to select one costs a cell for each node. The rest follows from what is reached:

- What leads to the right of a node is one product; to the left leads the rest.
- The sum of the leaves' values is linear in these products, so leaves take no cells.
- Where the outputs of every leaf add up to the same, the last is the rest of it.

In fixed point a feature that is a threshold is neither greater than it nor less. So
trees that compare `x < t` are walked in a mirror, where what leads right is less.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from privacy.trees import Node
from privacy.zkml.onnx_prep import input_name
from privacy.zkml.prescale import moved
from privacy.zkml.read_trees import Split, Trees
from privacy.zkml.writer import Column, Writer

_COMPARISON = 22
"""Cells, in two digits."""
_OPERATORS, _FORMAT = 17, 8
_SAME, _NOTHING = 1e-6, 1e-9

_Share = dict[Column | None, int]
_Late = tuple[Column, list[Column], list[float]]


def walk_trees(path: Path, trees: Trees, offset: Any, scale: Any) -> None:
    """Write a model of these trees, whose input is (x - offset) / scale, in place.

    Args:
        path: The ONNX model; input and output keep their names and shapes.
        trees: What it is to answer.
        offset: Per feature.
        scale: Per feature.
    """
    import onnx

    old = onnx.load(str(path)).graph
    graph = onnx.helper.make_graph([], "trees", list(old.input), list(old.output))
    write = Writer("walk", graph)
    walk = _Walk(write, trees)
    walk.measure(input_name(old), offset, scale)
    walk.go()
    walk.finish(old.output[0].name)
    graph.node.extend(write.nodes)
    sets = [onnx.helper.make_opsetid("", _OPERATORS)]
    model = onnx.helper.make_model(graph, opset_imports=sets, ir_version=_FORMAT)
    onnx.save(model, str(path))


def _split(node: Node) -> Split:
    return Split(node.feature, node.threshold)


def _mirrored(node: Node) -> Node:
    if not (node.left and node.right):
        return node
    left, right = _mirrored(node.left), _mirrored(node.right)
    return Node(node.feature, node.threshold, right, left)


def _inner(nodes: Iterable[Node | None]) -> list[Node]:
    return [node for node in nodes if node and node.left]


def _depths(roots: Sequence[Node]) -> Iterable[list[Node]]:
    """Yield the comparing nodes of each tree at each depth."""
    for root in roots:
        nodes = _inner([root])
        while nodes:
            yield nodes
            nodes = _inner(below for n in nodes for below in (n.left, n.right))


def _compared_apart(roots: Sequence[Node]) -> frozenset[Split]:
    """Return which splits to compare by themselves, once for all trees.

    Those that are alone at their depth; or all of them, if trees share many.
    """
    depths = [[_split(node) for node in nodes] for nodes in _depths(roots)]
    alone = frozenset(splits[0] for splits in depths if len(splits) == 1)
    every = frozenset(split for splits in depths for split in splits)
    selected = [splits for splits in depths if not alone.issuperset(splits)]
    cells = sum(_COMPARISON + len(splits) for splits in selected)
    return alone if cells < _COMPARISON * len(every - alone) else every


def _constant_total(roots: Sequence[Node]) -> float | None:
    """Return what the outputs add up to, if it is the same for every row."""

    def totals(node: Node) -> Iterable[float]:
        if node.left and node.right:
            yield from totals(node.left)
            yield from totals(node.right)
        else:
            yield sum(node.value)

    found = [list(totals(root)) for root in roots]
    if any(max(tree) - min(tree) > _SAME * max(map(abs, tree)) for tree in found):
        return None
    return sum(float(np.mean(tree)) for tree in found)


@dataclass(frozen=True, slots=True)
class _Here:
    """A comparing node.

    Attributes:
        node: The node.
        tree: Its tree.
        reach: The column that tells if it is reached; none for a root, which always is.
        share: The same as a sum of products; `None` stands for one.
    """

    node: Node
    tree: int
    reach: Column | None = None
    share: _Share = field(default_factory=lambda: {None: 1})

    @property
    def split(self) -> Split:
        return _split(self.node)


class _Walk:
    """Walks all trees at once, a depth at a time."""

    def __init__(self, write: Writer, trees: Trees) -> None:
        self._write, self._mirrored = write, trees.strict
        self._roots = (
            tuple(map(_mirrored, trees.roots)) if trees.strict else trees.roots
        )
        self._apart = _compared_apart(self._roots)
        self._base = trees.base
        outputs = len(trees.base)
        total = _constant_total(trees.roots) if outputs > 1 else None
        self._total = None if total is None else total + float(np.sum(trees.base))
        self._kept = outputs if total is None else outputs - 1
        self._weights: dict[Column | None, Any] = defaultdict(self._nothing)
        self._late: list[list[_Late]] = [[] for _ in range(self._kept)]
        self._margins: dict[Split, Column] = {}
        self._bits: dict[Split, Column] = {}

    def _nothing(self) -> Any:
        return np.zeros(self._kept)

    def _value(self, leaf: Node) -> Any:
        return np.array(leaf.value[: self._kept])

    def _number(self, value: float) -> str:
        return self._write.constant(np.array([[value]], np.float32))

    def measure(self, given: str, offset: Any, scale: Any) -> None:
        """Write how far features are above their thresholds; in a mirror, below."""
        nodes = [node for nodes in _depths(self._roots) for node in nodes]
        splits = list(dict.fromkeys(map(_split, nodes)))
        picked = np.array([split.feature for split in splits])
        limits = np.array([split.threshold for split in splits])
        limits = moved(limits, offset[picked], scale[picked])
        features = self._write("Gather", given, self._write.constant(picked), axis=1)
        sides = [features, self._write.constant(limits[None])]
        above = self._write("Sub", *(sides[::-1] if self._mirrored else sides))
        columns = self._write.columns(above, len(splits))
        self._margins = dict(zip(splits, columns, strict=True))

    def go(self) -> None:
        """Write what is reached, and count the leaves."""
        frontier = [_Here(root, tree) for tree, root in enumerate(self._roots)]
        while frontier:
            frontier = self._step(frontier, self._compare(frontier))

    def _compare(self, frontier: list[_Here]) -> list[Column]:
        """Write what nodes of one depth compare, and return a bit for each."""
        trees: dict[int, list[_Here]] = defaultdict(list)
        for here in frontier:
            trees[here.tree].append(here)
        selected = {
            tree: nodes
            for tree, nodes in trees.items()
            if not self._apart.issuperset(here.split for here in nodes)
        }
        splits = dict.fromkeys(h.split for h in frontier if h.tree not in selected)
        fresh = [split for split in splits if split not in self._bits]
        margins = [self._margins[split] for split in fresh]
        bits = self._positive([*margins, *self._selected(list(selected.values()))])
        self._bits |= dict(zip(fresh, bits, strict=False))
        chosen = dict(zip(selected, bits[len(fresh) :], strict=True))
        return [chosen.get(h.tree) or self._bits[h.split] for h in frontier]

    def _positive(self, margins: list[Column]) -> list[Column]:
        if not margins:
            return []
        sign = self._write("Sign", self._write.together(margins))
        above = self._write("Equal", sign, self._number(1))
        return self._write.columns(self._write("Cast", above, to=1), len(margins))

    def _selected(self, trees: list[list[_Here]]) -> list[Column]:
        """Write, for each tree, the margin of the node that is reached."""
        reached = [[here.reach for here in tree if here.reach] for tree in trees]
        margins = [[self._margins[here.split] for here in tree] for tree in trees]
        return self._dots(reached, margins)

    def _dots(
        self, rows: list[list[Column]], others: Sequence[Sequence[Column | float]]
    ) -> list[Column]:
        """Write products of rows with others, all of one length at a time."""
        made: dict[int, Column] = {}
        for many in dict.fromkeys(map(len, rows)):
            at = [i for i, row in enumerate(rows) if len(row) == many]
            left = self._shaped([c for i in at for c in rows[i]], (len(at), 1, many))
            right = self._shaped([c for i in at for c in others[i]], (len(at), many, 1))
            dots = self._write("MatMul", left, right)
            line = self._write.constant(np.array([1, len(at)]))
            columns = self._write.columns(self._write("Reshape", dots, line), len(at))
            made.update(zip(at, columns, strict=True))
        return [made[i] for i in range(len(rows))]

    def _shaped(self, cells: Sequence[Any], shape: tuple[int, ...]) -> str:
        if isinstance(cells[0], float):
            return self._write.constant(np.array(cells, np.float32).reshape(shape))
        row = self._write.together(cells)
        return self._write("Reshape", row, self._write.constant(np.array(shape)))

    def _step(self, frontier: list[_Here], bits: list[Column]) -> list[_Here]:
        """Weigh the leaves below nodes of one depth; return the nodes below."""
        late = self._put_off(frontier, bits)
        pairs = [
            p for i, p in enumerate(zip(frontier, bits, strict=True)) if i not in late
        ]
        rights = self._rights(pairs)
        below: list[_Here] = []
        turned: list[tuple[_Here, Column]] = []
        for (here, _), right in zip(pairs, rights, strict=True):
            left_node, right_node = _children(here.node)
            if right_node.left:
                below.append(_Here(right_node, here.tree, right, {right: 1}))
            else:
                self._weights[right] += self._value(right_node)
            if left_node.left:
                turned.append((here, right))
            else:
                self._weigh(_less(here.share, right), left_node)
        for (here, right), left in zip(turned, self._lefts(turned), strict=True):
            node, _ = _children(here.node)
            below.append(_Here(node, here.tree, left, _less(here.share, right)))
        return below

    def _weigh(self, share: _Share, leaf: Node) -> None:
        for column, times in share.items():
            self._weights[column] += times * self._value(leaf)

    def _rights(self, pairs: list[tuple[_Here, Column]]) -> list[Column]:
        """Write whether what is right of nodes is reached."""
        inner = [(here.reach, bit) for here, bit in pairs if here.reach]
        if not inner:
            return [bit for _, bit in pairs]
        reached, bits = zip(*inner, strict=True)
        both = self._write(
            "Mul", self._write.together(reached), self._write.together(bits)
        )
        products = iter(self._write.columns(both, len(inner)))
        return [next(products) if here.reach else bit for here, bit in pairs]

    def _lefts(self, pairs: list[tuple[_Here, Column]]) -> list[Column]:
        """Write whether what is left of nodes is reached, given what is right."""
        made: dict[int, Column] = {}
        roots = [i for i, (here, _) in enumerate(pairs) if not here.reach]
        others = [i for i, (here, _) in enumerate(pairs) if here.reach]
        for at in filter(None, (roots, others)):
            reached = [reach for i in at if (reach := pairs[i][0].reach)]
            whole = self._write.together(reached) if reached else self._number(1)
            part = self._write.together([pairs[i][1] for i in at])
            rest = self._write("Sub", whole, part)
            made.update(zip(at, self._write.columns(rest, len(at)), strict=True))
        return [made[i] for i in range(len(pairs))]

    def _put_off(self, frontier: list[_Here], bits: list[Column]) -> set[int]:
        """Weigh leaves of nodes of one bit together, if that is less; return which.

        Their bit times what the right leaves have over the left ones: a cell for each
        node and output, and two for each output, instead of a product for each node.
        """
        found: dict[Column, list[int]] = defaultdict(list)
        for i, (here, bit) in enumerate(zip(frontier, bits, strict=True)):
            if here.reach and not _inner(_children(here.node)):
                found[bit].append(i)
        late: set[int] = set()
        for bit, nodes in found.items():
            pairs = [_children(frontier[i].node) for i in nodes]
            gains = np.array([self._value(b) - self._value(a) for a, b in pairs])
            used = np.flatnonzero(gains.any(axis=0))
            if len(nodes) <= 2 * len(used):
                continue
            late.update(nodes)
            reached = [reach for i in nodes if (reach := frontier[i].reach)]
            for output in used:
                row = [float(gain) for gain in gains[:, output]]
                self._late[output].append((bit, reached, row))
            for i, (left, _) in zip(nodes, pairs, strict=True):
                self._weigh(frontier[i].share, left)
        return late

    def finish(self, out: str) -> None:
        """Write the outputs."""
        made = [self._output(i) for i in range(self._kept)]
        if self._total is not None:
            whole = made[0]
            for part in made[1:]:
                whole = self._write("Add", whole, part)
            made.append(self._write("Sub", self._number(self._total), whole))
        self._write("Concat", *made, out=out, axis=1)

    def _output(self, output: int) -> str:
        weights = {c: float(w[output]) for c, w in self._weights.items()}
        total = self._number(self._base[output] + weights.pop(None, 0.0))
        weights = {c: w for c, w in weights.items() if abs(w) > _NOTHING}
        if weights:
            values = np.array(list(weights.values()), np.float32)[:, None]
            row = self._write.together([c for c in weights if c])
            dot = self._write("MatMul", row, self._write.constant(values))
            total = self._write("Add", dot, total)
        if late := self._late[output]:
            bits, reached, gains = zip(*late, strict=True)
            dots = self._write.together(self._dots(list(reached), gains))
            product = self._write("Mul", self._write.together(bits), dots)
            axes = self._write.constant(np.array([1]))
            more = self._write("ReduceSum", product, axes, keepdims=1)
            total = self._write("Add", more, total)
        return total


def _children(node: Node) -> tuple[Node, Node]:
    if node.left is None or node.right is None:
        raise ValueError("a leaf compares nothing")
    return node.left, node.right


def _less(share: _Share, right: Column) -> _Share:
    return {**share, right: -1}
