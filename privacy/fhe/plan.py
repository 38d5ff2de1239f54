"""Plan a circuit for trees on bits: look-ups, and what they are summed into.

Leaf values are measured from the least leaf of their tree and rounded to steps, each
output by itself; then tests that no longer matter are dropped, and what is left is cut
into blocks: for each output apart or, where that takes fewer, one for each leaf, whose
look-up says whether it is reached and counts in every output's sum. The steps are as
wide as makes the sum of every tree's greatest leaf fit the sum's bits, so no input can
overflow a sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.binning import BitNode, leaves, walk
from privacy.fhe.blocks import cut, leaf_blocks
from privacy.fhe.indices import Block, fits, index_of


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


@dataclass(frozen=True, slots=True)
class Steps:
    """How leaves become whole numbers: `rint((leaf - least) / scale)`.

    Attributes:
        least: The least leaf of each tree, (trees, outputs).
        scale: The width of a step, (outputs,).
    """

    least: Floats
    scale: Floats


def leaf_steps(trees: Sequence[BitNode], sum_bits: int) -> Steps:
    """Return the finest steps whose sum fits, whichever leaf each tree gives."""
    values = [np.array(list(leaves(tree))) for tree in trees]
    least = np.array([v.min(axis=0) for v in values])
    span = np.array([v.max(axis=0) for v in values]) - least
    limit = (1 << sum_bits) - 1
    scale = span.sum(axis=0) / limit
    scale[scale == 0] = 1.0
    while (over := np.rint(span / scale).sum(axis=0) > limit).any():
        scale[over] *= 1.001  # rounding up took the sum over: a notch coarser
    return Steps(least=least, scale=scale)


def walk_steps(trees: Sequence[BitNode], bits: Ints, steps: Steps) -> Ints:
    """Return the sums a plan must give, (rows, outputs), by walking the trees."""
    total = np.zeros((len(bits), len(steps.scale)))
    for tree, least in zip(trees, steps.least, strict=True):
        total += np.rint((walk(tree, bits) - least) / steps.scale)
    return total.astype(np.int64)


def plan(
    trees: Sequence[BitNode],
    owner: Sequence[int],
    steps: Steps,
    *,
    table_bits: int,
    sum_bits: int,
) -> Plan:
    """Return the look-ups that compute the sums of trees.

    Args:
        trees: Trees on bits; leaves hold a value for each output.
        owner: The feature of each bit; bits of one feature ascend with their edges.
        steps: What `leaf_steps` gave for `sum_bits`.
        table_bits: A table has `2**table_bits` entries.
        sum_bits: A sum has so many bits.

    Raises:
        BackendError: A path has more conditions than a table can count, or nothing
            depends on the input.
    """
    outputs, found = len(steps.scale), list[LookUp]()
    for tree, least in zip(trees, steps.least, strict=True):
        whole = in_steps(tree, least, steps.scale)
        for block, into in _blocks(whole, owner, 1 << table_bits, outputs):
            found.append(look_up(block, owner, table_bits, into))
    if not found:
        msg = "the model's answer does not depend on its input"
        raise BackendError(msg, code="fhe-constant-model")
    made = Plan(tuple(found), outputs, table_bits, sum_bits)
    check_indices(made, owner)
    return made


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


def in_steps(node: BitNode, least: Floats, scale: Floats) -> BitNode:
    """Return a tree in whole steps of each output, without tests that do not matter.

    Args:
        node: The tree.
        least: Its least leaf, one number an output.
        scale: The width of a step, likewise.
    """
    if node.children is None:
        steps = np.rint((np.array(node.value) - least) / scale)
        return BitNode(value=tuple(steps.tolist()))
    below, above = (in_steps(c, least, scale) for c in node.children)
    return below if below == above else BitNode(node.bit, below, above)


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
