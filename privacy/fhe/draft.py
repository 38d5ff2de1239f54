"""An ensemble on the bits of chosen edges, and the circuit it takes.

`privacy.fhe.tree_choice` chooses the edges and the width of the sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.binning import BitNode, owners, walk
from privacy.fhe.leaf_numbers import Numbering, plan_numbers
from privacy.fhe.leaf_tables import leaf_sums
from privacy.fhe.plan import Plan, plan
from privacy.fhe.quantizers import SumSteps, raw_outputs
from privacy.fhe.rounding import walk_sums
from privacy.fhe.thermometer import Edges, thermometer
from privacy.fhe.thrift import thrifty

TABLE_BITS = (4, 5, 6)
"""Each costs more than twice the one before, and saves less."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Trees on the bits of chosen edges, and how their leaves are rounded.

    Attributes:
        bins: Most bins a feature has; 0 if the edges are the model's own thresholds.
        whole: The trees in whole steps.
        output: From sums to raw outputs.
    """

    edges: tuple[Edges, ...]
    bins: int
    trees: tuple[BitNode, ...]
    whole: tuple[BitNode, ...]
    sum_bits: int
    base: tuple[float, ...]
    output: SumSteps

    def sums(self, bits: Ints) -> Ints:
        """Return the circuit's integers for rows of bits, by walking the trees."""
        return walk_sums(self.whole, bits)

    def unrounded(self, rows: Floats) -> Floats:
        """Return raw outputs with the trained leaves: what binning alone changed."""
        complement = self.output.complement
        return unrounded(rows, self.trees, self.edges, self.base, complement=complement)

    def thrifty(self, bits: Ints) -> "Draft":
        """Return the draft with leaves moved where that saves look-ups.

        Args:
            bits: Of the calibration rows, (rows, bits).
        """
        size = 1 << TABLE_BITS[0]
        return replace(self, whole=thrifty(self.whole, bits, owners(self.edges), size))

    def plan(self) -> Plan:
        """Return the plan with the smallest tables that can count the trees' paths.

        Raises:
            BackendError: There is none, or it has too many look-ups.
        """
        return smallest(self._plan)

    def _plan(self, table_bits: int) -> Plan:
        return plan(
            self.whole,
            owners(self.edges),
            table_bits=table_bits,
            sum_bits=self.sum_bits,
        )


@dataclass(frozen=True, slots=True)
class LeafDraft:
    """The same trees, answered with the number of each tree's leaf.

    Attributes:
        of: The draft whose sums clients compute from the leaves.
        numberings: Of the trees that are no leaf themselves.
        output: From numbers to raw outputs.
    """

    of: Draft
    made: Plan
    numberings: tuple[Numbering, ...]
    output: SumSteps

    @property
    def edges(self) -> tuple[Edges, ...]:
        """The edges of each feature."""
        return self.of.edges

    @property
    def trees(self) -> tuple[BitNode, ...]:
        """The trees, those that are a leaf themselves too."""
        return self.of.trees

    @property
    def bins(self) -> int:
        """Most bins a feature has; 0 if the edges are the model's own thresholds."""
        return self.of.bins

    def sums(self, bits: Ints) -> Ints:
        """Return the circuit's integers for rows of bits, by walking the trees."""
        return np.stack([n.walk(bits) for n in self.numberings], axis=1)

    def unrounded(self, rows: Floats) -> Floats:
        """Return raw outputs with the trained leaves: what binning alone changed."""
        return self.of.unrounded(rows)

    def plan(self) -> Plan:
        """Return the plan."""
        return self.made


TreesDraft = Draft | LeafDraft


def unrounded(
    rows: Floats,
    trees: Sequence[BitNode],
    edges: Sequence[Edges],
    base: Sequence[float],
    *,
    complement: bool,
) -> Floats:
    """Return the raw outputs that trees on bits give with their trained leaves.

    Args:
        rows: Standardised, (rows, features).
        trees: On the bits of `edges`.
        edges: Of each feature.
        base: As of the ensemble.
        complement: See `privacy.fhe.quantizers.SumSteps`.
    """
    bits = thermometer(rows, edges)
    total = np.tile(np.array(base, dtype=np.float64), (len(rows), 1))
    for tree in trees:
        total += walk(tree, bits)
    ones, zeros = (1.0,) * len(base), (0.0,) * len(base)
    return raw_outputs(total, SumSteps(ones, zeros, complement=complement))


def by_leaves(draft: Draft, rows: Floats) -> LeafDraft:
    """Return the draft that answers with the number of each tree's leaf.

    Args:
        draft: What clients compute from the leaves.
        rows: Standardised, to compare both on.

    Raises:
        BackendError: A tree has too many leaves, or the two differ.
    """
    vary = [tree for tree in draft.whole if tree.children]
    owner, numbered = owners(draft.edges), dict[int, tuple[Numbering, ...]]()

    def plan_at(table_bits: int) -> Plan:
        made, numbered[table_bits] = plan_numbers(vary, owner, table_bits=table_bits)
        return made

    made = smallest(plan_at)
    numberings = numbered[made.table_bits]
    tables = tuple(n.table() for n in numberings)
    found = LeafDraft(draft, made, numberings, replace(draft.output, trees=tables))
    bits = thermometer(rows, draft.edges)
    if not np.array_equal(leaf_sums(tables, found.sums(bits)), draft.sums(bits)):
        msg = "the numbers of leaves do not give what the trees give"
        raise BackendError(msg, code="fhe-bad-plan")
    return found


def smallest(
    plan_at: Callable[[int], Plan], table_bits: tuple[int, ...] = TABLE_BITS
) -> Plan:
    """Return the plan with the smallest tables that can count the trees' paths.

    Args:
        plan_at: Returns the plan whose tables have `2**table_bits` entries.
        table_bits: The widths to try, ascending.

    Raises:
        BackendError: There is none, or it has too many look-ups.
    """
    try:
        return plan_at(table_bits[0])
    except BackendError as exc:
        if exc.code != "fhe-tree-too-deep" or len(table_bits) == 1:
            raise
        return smallest(plan_at, table_bits[1:])


def ranks(rows: Floats, edges: Sequence[Edges]) -> Ints:
    """Return the same bits as `thermometer`, found by rank: a second opinion."""
    parts = []
    for i, feature in enumerate(edges):
        column = np.clip(
            rows[:, i], -np.finfo(np.float32).max, np.finfo(np.float32).max
        )
        at = np.searchsorted(feature.edges, column.astype(np.float32), side="left")
        parts.append(np.arange(len(feature.edges)) < at[:, None])
    return np.concatenate(parts, axis=1).astype(np.int64)
