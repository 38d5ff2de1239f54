"""Blocks of trees, and the index of a block's table: a linear function of bits.

The index is, where that fits the table,

    (how many conditions hold) + stride * (code of the tests)

Two facts about thermometers keep it small: conditions of one feature and kind are one,
the strictest, and of `above this edge` and `not above that higher one` at least one
always holds; and `g` tests of one feature have only `g + 1` outcomes, which their sum
tells apart.

Where that does not fit, weights are searched with which inputs share an entry if the
block gives the same for them; see `privacy.fhe.levels`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Ints
from privacy.fhe.binning import BitNode, walk
from privacy.fhe.levels import Levels, fit

_MOST_STATES = 1 << 14

Condition = tuple[int, bool]
"""A bit, and whether it must be 1."""


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


def fits(block: Block, owner: Sequence[int], size: int) -> bool:
    """Return whether a table of `size` entries can hold a block."""
    if index_size(block, owner) <= size:
        return True
    spread = _spread(block, owner)
    return spread is not None and fit(spread.values, size) is not None


def index_of(block: Block, owner: Sequence[int], size: int) -> Index:
    """Return a block's index and table, of at most `size` entries.

    Raises:
        BackendError: It fits none.
    """
    if index_size(block, owner) <= size:
        return _counted(block, owner)
    spread = _spread(block, owner)
    found = None if spread is None else fit(spread.values, size)
    if spread is None or found is None:
        msg = f"a block of a tree does not fit a table of {size} entries"
        raise BackendError(msg, code="fhe-bad-plan")
    return _searched(spread, found)


def index_size(block: Block, owner: Sequence[int]) -> int:
    """Return how many entries a block's table needs."""
    tests = Counter(owner[bit] for bit in _tests(block.top))
    return _levels(block, owner) * math.prod(g + 1 for g in tests.values())


def _counted(block: Block, owner: Sequence[int]) -> Index:
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


@dataclass(frozen=True, slots=True)
class _Spread:
    """What a block gives in every state of its features.

    Attributes:
        bits: Of each feature, ascending; its state is how many of them are 1.
        values: An axis for each feature.
    """

    bits: tuple[tuple[int, ...], ...]
    values: Ints


def _spread(block: Block, owner: Sequence[int]) -> _Spread | None:
    """Return what a block gives; None if it has too many states to look at."""
    mine: dict[int, list[int]] = defaultdict(list)
    for bit in sorted({bit for bit, _ in block.conditions} | _tests(block.top)):
        mine[owner[bit]].append(bit)
    shape = tuple(len(bits) + 1 for bits in mine.values())
    if math.prod(shape) > _MOST_STATES:
        return None
    states = np.indices(shape).reshape(len(shape), -1)
    ones = {
        bit: states[axis] > n
        for axis, bits in enumerate(mine.values())
        for n, bit in enumerate(bits)
    }
    values = _leaf(block.top, ones, states.shape[1])
    for bit, is_one in block.conditions:
        values = np.where(ones[bit] == is_one, values, 0)
    return _Spread(tuple(map(tuple, mine.values())), values.reshape(shape))


def _leaf(node: BitNode, ones: Mapping[int, Ints], count: int) -> Ints:
    """Return the number at the leaf that each of `count` states leads to."""
    if node.children is None:
        return np.full(count, int(node.value[0]))
    below, above = (_leaf(child, ones, count) for child in node.children)
    return np.where(ones[node.bit], above, below)


def _searched(spread: _Spread, levels: Levels) -> Index:
    """Return the index of levels that were found; bits of weight 0 are left out."""
    weights = {
        bit: mine[n + 1] - mine[n]
        for bits, mine in zip(spread.bits, levels, strict=True)
        for n, bit in enumerate(bits)
    }
    states = np.indices(spread.values.shape).reshape(len(levels), -1)
    terms = [np.array(mine)[at] for mine, at in zip(levels, states, strict=True)]
    entries = zip(sum(terms).tolist(), spread.values.ravel().tolist(), strict=True)
    return Index(
        bits=tuple(bit for bit, weight in weights.items() if weight),
        weights=tuple(weight for weight in weights.values() if weight),
        constant=sum(mine[0] for mine in levels),
        size=1 + sum(map(max, levels)),
        on=tuple(sorted(set(entries))),
    )
