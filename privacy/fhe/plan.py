"""Plan a circuit for trees on bits: look-ups, and what they are summed into.

Trees whose leaves are whole steps (`privacy.fhe.rounding`) are cut into blocks: for
each output apart or, where that takes fewer, one for each leaf, whose look-up says
whether it is reached and counts in every output's sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.binning import BitNode, leaves
from privacy.fhe.blocks import cut, leaf_blocks
from privacy.fhe.indices import Block, fits, index_of
from privacy.fhe.least import least_blocks

MAX_LOOK_UPS = 8192


@dataclass(frozen=True, slots=True)
class LookUp:
    """`table[constant + sum(weights * bits)]`, a term of sums.

    Attributes:
        into: How often it counts in each output's sum.
    """

    bits: tuple[int, ...]
    weights: tuple[int, ...]
    constant: int
    table: tuple[int, ...]
    into: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A circuit's look-ups: one sum an output, each below `2**sum_bits`."""

    look_ups: tuple[LookUp, ...]
    outputs: int
    table_bits: int
    sum_bits: int


def plan(
    trees: Sequence[BitNode],
    owner: Sequence[int],
    *,
    table_bits: int,
    sum_bits: int,
) -> Plan:
    """Return the look-ups that compute the sums of trees.

    Args:
        trees: What `round_leaves` gave for `sum_bits`.
        owner: The feature of each bit; bits of one feature ascend with their edges.
        table_bits: A table has `2**table_bits` entries.
        sum_bits: A sum has so many bits.

    Raises:
        BackendError: A path has more conditions than a table can count, there are too
            many look-ups, or nothing depends on the input.
    """
    outputs, found = len(next(leaves(trees[0]))), list[LookUp]()
    size = 1 << table_bits
    least = [0] * len(trees)
    if sum(map(_numbers, trees)) > MAX_LOOK_UPS:
        least = [_least(tree, owner, size, outputs) for tree in trees]
    for at, tree in enumerate(trees):
        check_count(len(found), sum(least[at:]))
        for block, into in _blocks(tree, owner, size, outputs):
            found.append(look_up(block, owner, table_bits, into))
    check_count(len(found))
    if not found:
        msg = "the model's answer does not depend on its input"
        raise BackendError(msg, code="fhe-constant-model")
    made = Plan(tuple(found), outputs, table_bits, sum_bits)
    check_indices(made, owner)
    return made


def check_count(found: int, more: int = 0) -> None:
    """Refuse more look-ups than are compiled.

    Args:
        found: So many were found.
        more: So many are still to come, at least.

    Raises:
        BackendError: There are too many.
    """
    if found + more > MAX_LOOK_UPS:
        msg = (
            f"its trees take at least {found + more} table look-ups, at most "
            f"{MAX_LOOK_UPS} are compiled: use fewer or shallower trees"
        )
        raise BackendError(msg, code="fhe-too-many-look-ups")


def _numbers(tree: BitNode) -> int:
    """Return how many numbers that are not 0 a tree holds: its look-ups at most."""
    return sum(bool(number) for value in leaves(tree) for number in value)


def _least(tree: BitNode, owner: Sequence[int], size: int, outputs: int) -> int:
    """Return a number of look-ups that a tree takes or exceeds, found in no time."""
    shared = sum(map(any, leaves(tree)))
    apart = (least_blocks(_one(tree, k), owner, size) for k in range(outputs))
    return min(shared, sum(apart))


def count_look_ups(tree: BitNode, owner: Sequence[int], size: int) -> int:
    """Return how many look-ups a plan has for a tree.

    Args:
        tree: In whole steps.
        owner: The feature of each bit.
        size: Entries of a table.

    Raises:
        BackendError: A path has more conditions than a table can count.
    """
    return len(_blocks(tree, owner, size, len(next(leaves(tree)))))


def _blocks(
    whole: BitNode, owner: Sequence[int], size: int, outputs: int
) -> list[tuple[Block, Floats]]:
    """Return a tree's blocks, and how often each counts in every output's sum.

    Blocks of each output apart; where one for each leaf are fewer, those.
    """
    shared = [
        (b, np.array(value)) for b, value in leaf_blocks(whole, owner) if any(value)
    ]
    most = len(shared) if all(fits(b, owner, size) for b, _ in shared) else None
    trees = [_one(whole, k) for k in range(outputs)]
    waiting, apart = sum(map(_counts, trees)), list[tuple[Block, Floats]]()
    for k, tree in enumerate(trees):
        apart += [(block, np.eye(outputs)[k]) for block in cut(tree, owner, size)]
        waiting -= _counts(tree)
        if most is not None and len(apart) + waiting > most:  # cutting takes long
            return shared
    return apart


def _counts(tree: BitNode) -> bool:
    """Return whether a tree of one output takes a block at least."""
    return any(value for (value,) in leaves(tree))


def look_up(
    block: Block, owner: Sequence[int], table_bits: int, into: Floats
) -> LookUp:
    """Return a block as a look-up.

    Args:
        block: What fits a table of `2**table_bits` entries.
        owner: The feature of each bit.
        table_bits: As of the plan.
        into: How often it counts in each output's sum.
    """
    index = index_of(block, owner, 1 << table_bits)
    table = [0] * (1 << table_bits)
    for at, value in index.on:
        table[at] = value
    return LookUp(
        bits=index.bits,
        weights=index.weights,
        constant=index.constant,
        table=tuple(table),
        into=tuple(int(times) for times in into),
    )


def _one(node: BitNode, output: int) -> BitNode:
    """Return one output's tree, likewise."""
    if node.children is None:
        return BitNode(value=(node.value[output],))
    below, above = (_one(c, output) for c in node.children)
    return below if below == above else BitNode(node.bit, below, above)


def check_indices(made: Plan, owner: Sequence[int]) -> None:
    """Compare the range of every index, whatever the features, with its table.

    Raises:
        BackendError: One can leave its table: the plan is wrong.
    """
    for u in made.look_ups:
        low = high = u.constant
        terms = sorted(zip(u.bits, u.weights, strict=True))
        for _, mine in groupby(terms, key=lambda term: owner[term[0]]):
            sums = np.cumsum([0, *(w for _, w in mine)])  # ones, then zeros
            low, high = low + int(sums.min()), high + int(sums.max())
        if low < 0 or high >= len(u.table) or len(u.table) != 1 << made.table_bits:
            msg = f"an index from {low} to {high} leaves its table of {len(u.table)}"
            raise BackendError(msg, code="fhe-bad-plan")


def evaluate(made: Plan, bits: Ints) -> Ints:
    """Return the sums, (rows, outputs), as the circuit computes them."""
    out = np.zeros((len(bits), made.outputs), dtype=np.int64)
    for u in made.look_ups:
        index = u.constant + bits[:, list(u.bits)] @ np.array(u.weights, dtype=np.int64)
        out += np.outer(np.array(u.table)[index], np.array(u.into))
    return out
