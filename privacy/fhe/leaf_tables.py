"""What the leaves of a tree hold, by number, for circuits that answer with the number.

Part of client.json, as `privacy.fhe.quantizers.SumSteps.trees`. What clients learn: the
leaves of each tree, rounded to steps; and of each row they ask, which leaf it reaches.
A number may also say where the row would go in another part of the tree: several
numbers mean one leaf.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.fhe.backend import Ints

NO_LEAF = -1
_MOST_NUMBERS = 1 << 8


@dataclass(frozen=True, slots=True)
class LeafTable:
    """The leaves of one tree.

    Attributes:
        numbers: For each number its place in `leaves`; -1 if no input gives it.
        leaves: What they hold, in steps of each output.
    """

    numbers: tuple[int, ...]
    leaves: tuple[tuple[int, ...], ...]


def leaf_sums(tables: Sequence[LeafTable], numbers: Ints) -> Ints:
    """Return the sums of what leaves hold, (rows, outputs).

    Args:
        tables: Of each tree.
        numbers: Of the leaves that rows reach, (rows, trees).

    Raises:
        FormatError: No input gives such a number.
    """
    total = np.zeros((len(numbers), len(tables[0].leaves[0])), dtype=np.int64)
    for table, column in zip(tables, numbers.T, strict=True):
        known = (column >= 0) & (column < len(table.numbers))
        places = np.array(table.numbers)[np.where(known, column, 0)]
        if not known.all() or (places == NO_LEAF).any():
            msg = (
                "a result names no leaf of the model's trees: the node answered for "
                "another model, or a look-up erred: ask again"
            )
            raise FormatError(msg, code="fhe-result-mismatch")
        total += np.array(table.leaves, dtype=np.int64)[places]
    return total


def table_to_json(table: LeafTable) -> Json:
    """Return a tree's leaves as JSON."""
    return {k: list(v) for k, v in asdict(table).items()}


def parse_table(value: Json, *, outputs: int) -> LeafTable:
    """Return the leaves that `table_to_json` described.

    Args:
        value: The description.
        outputs: How many numbers each leaf holds.

    Raises:
        FormatError: It is malformed.
    """
    try:
        leaves = tuple(tuple(leaf) for leaf in value["leaves"])
        found = LeafTable(
            **{**value, "numbers": tuple(value["numbers"]), "leaves": leaves}
        )
    except (KeyError, TypeError) as exc:
        raise FormatError("the circuit's table of leaves is malformed") from exc
    held = [step for leaf in leaves for step in leaf]
    whole = all(type(n) is int for n in (*found.numbers, *held))
    usable = (
        whole
        and 0 < len(found.numbers) <= _MOST_NUMBERS
        and 0 < len(leaves) <= _MOST_NUMBERS
        and all(len(leaf) == outputs for leaf in leaves)
        and all(NO_LEAF <= n < len(leaves) for n in found.numbers)
        and all(0 <= step < 1 << 32 for step in held)
    )
    if not usable:
        raise FormatError("the circuit's table of leaves is malformed")
    return found
