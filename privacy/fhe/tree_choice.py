"""Choose the bins and the width of the sums for an ensemble: as little as will do.

The fewest bins with which the trees answer nearly as the trained ones do on the
calibration rows, else the closest; then the narrowest sums that lose little more.

Of a classifier both labels and probabilities are compared: where nearly all rows have
one label, a circuit that says nothing else keeps nearly all labels.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from privacy.activations import activate
from privacy.errors import BackendError
from privacy.fhe.backend import Floats
from privacy.fhe.binning import BitNode, bin_trees, quantile_edges, threshold_edges
from privacy.fhe.draft import Draft, LeafDraft, TreesDraft, by_leaves, unrounded
from privacy.fhe.quantizers import SumSteps, raw_outputs
from privacy.fhe.rounding import round_leaves
from privacy.fhe.thermometer import Edges, thermometer
from privacy.publishing import accuracy, variance_lost
from privacy.trees import Ensemble, Node

BINS = (16, 32, 64, 128)
SUM_BITS = (5, 6, 7, 8)
"""How many come at what cost depends on the look-ups. Fewer lose over a point where
many trees are summed, though calibration rows do not show it."""
_ONE_TREE_BITS = (4, *SUM_BITS)
_WANTED_AGREEMENT = 0.99
_WANTED_ERROR = 0.01
"""For regression: mean squared difference over variance."""
_WANTED_PROBABILITIES = 0.05
"""Likewise, of probabilities."""
_ROUNDING = 0.004
"""What rounding the leaves may lose beside, of either."""


def choose(
    ensemble: Ensemble,
    calibration: Floats,
    *,
    splits: str,
    task: str,
    answer: str = "sums",
) -> tuple[TreesDraft, ...]:
    """Return drafts that are near enough, from narrow sums to wide ones.

    Args:
        ensemble: The trained trees.
        calibration: Standardised rows, (rows, features).
        splits: `hidden` or `revealed`; see `privacy.fhe.options.Options`.
        task: See `privacy.bundle.Manifest`.
        answer: `sums` or `leaves`; see `privacy.fhe.options.Options`.

    Raises:
        BackendError: No feature has an edge: nothing depends on the input.
    """
    alone, complement = _but_first(ensemble)
    exact = threshold_edges(alone, calibration.shape[1])
    clear = _unrounded(alone, calibration, exact, complement=complement)
    loss = partial(_loss, clear=clear, activation=ensemble.activation, task=task)

    binned: list[tuple[float, tuple[Edges, ...], int]] = []
    for edges, bins in _edges(exact, calibration, splits):
        lost = loss(_unrounded(alone, calibration, edges, complement=complement))
        binned.append((lost, edges, bins))
        if lost <= 0:
            break
    lost, edges, bins = min(binned, key=lambda b: b[0])

    make = partial(_draft, alone, calibration, edges, bins, complement=complement)
    widest = make(SUM_BITS[-1])
    found = answered(widest, calibration, answer)
    if isinstance(found, LeafDraft):
        return (found,)
    widths = SUM_BITS if len(ensemble.trees) > 1 else _ONE_TREE_BITS
    drafts = [*map(make, widths[:-1]), widest]
    bits = thermometer(calibration, edges)

    def lost_by(draft: Draft) -> float:
        return loss(raw_outputs(draft.sums(bits), draft.output))

    most = max(lost, 0.0) + _ROUNDING
    if task == "regression":  # rounding shows in every value, in labels seldom
        most = max(lost + _ROUNDING, 0.0)
    for i, draft in enumerate(drafts):
        if lost_by(draft) <= most:
            moved = draft.thrifty(bits)
            return (moved if lost_by(moved) <= most else draft, *drafts[i + 1 :])
    return tuple(drafts[-1:])


def answered(draft: Draft, calibration: Floats, answer: str) -> TreesDraft:
    """Return the draft that answers with leaves, where it is wanted and costs less.

    A lone tree of several outputs has nothing to sum.

    Args:
        draft: The draft that answers with sums.
        calibration: As of `choose`.
        answer: Likewise.

    Raises:
        BackendError: Leaves are asked for, and a tree has too many.
    """
    lone = len(draft.trees) == 1 and len(draft.base) > 1
    if answer == "leaves":
        return by_leaves(draft, calibration)
    if not lone:
        return draft
    try:
        found = by_leaves(draft, calibration)
    except BackendError:
        return draft
    return found if len(found.made.look_ups) < len(draft.plan().look_ups) else draft


def draft_at(
    ensemble: Ensemble, calibration: Floats, *, bins: int, sum_bits: int
) -> Draft:
    """Return the draft of chosen bins and sums.

    Args:
        ensemble: The trained trees.
        calibration: Standardised rows, (rows, features).
        bins: Most bins of a feature; 0 for the trees' own thresholds.
        sum_bits: Of a sum.

    Raises:
        BackendError: No feature has an edge: nothing depends on the input.
    """
    alone, complement = _but_first(ensemble)
    edges = (
        quantile_edges(calibration, bins)
        if bins
        else threshold_edges(alone, calibration.shape[1])
    )
    return _draft(alone, calibration, edges, bins, sum_bits, complement=complement)


def with_fewer_look_ups(draft: Draft, calibration: Floats) -> Draft:
    """Return the draft with leaves moved where that saves look-ups and loses little.

    Args:
        draft: Whose loss was measured as it is.
        calibration: As of `choose`.
    """
    bits = thermometer(calibration, draft.edges)
    moved = draft.thrifty(bits)
    before, after = (raw_outputs(d.sums(bits), d.output) for d in (draft, moved))
    return moved if variance_lost(after, before) <= _ROUNDING else draft


def _edges(
    exact: tuple[Edges, ...], calibration: Floats, splits: str
) -> Iterator[tuple[tuple[Edges, ...], int]]:
    if splits == "revealed":
        yield exact, 0
        return
    for bins in BINS:
        yield quantile_edges(calibration, bins), bins


def _draft(
    ensemble: Ensemble,
    calibration: Floats,
    edges: tuple[Edges, ...],
    bins: int,
    sum_bits: int,
    *,
    complement: bool,
) -> Draft:
    trees = _binned(ensemble, calibration, edges)
    whole = round_leaves(trees, thermometer(calibration, edges), sum_bits)
    offset = np.array(ensemble.base) + whole.offset
    output = SumSteps(
        tuple(whole.scale.tolist()), tuple(offset.tolist()), complement=complement
    )
    return Draft(edges, bins, trees, whole.trees, sum_bits, ensemble.base, output)


def _unrounded(
    ensemble: Ensemble,
    calibration: Floats,
    edges: tuple[Edges, ...],
    *,
    complement: bool,
) -> Floats:
    """Return raw outputs on calibration rows that only binning changed."""
    trees, base = _binned(ensemble, calibration, edges), ensemble.base
    return unrounded(calibration, trees, edges, base, complement=complement)


def _binned(
    ensemble: Ensemble, calibration: Floats, edges: tuple[Edges, ...]
) -> tuple[BitNode, ...]:
    if not any(e.edges for e in edges):
        msg = "the model's answer does not depend on its input"
        raise BackendError(msg, code="fhe-constant-model")
    return bin_trees(ensemble, edges, calibration)


def _loss(raw: Floats, clear: Floats, activation: str, task: str) -> float:
    """Return how far a draft is from what is wanted; 0 or less is near enough."""
    if task != "classification":
        return variance_lost(raw, clear) - _WANTED_ERROR
    close = accuracy(raw, clear, activation=activation, task=task)
    labels = _WANTED_AGREEMENT - float(close["label_agreement"])
    missed = variance_lost(activate(raw, activation), activate(clear, activation))
    return max(labels, missed - _WANTED_PROBABILITIES)


def _but_first(ensemble: Ensemble) -> tuple[Ensemble, bool]:
    """Leave out the first of several probabilities, and say whether there were any."""
    if ensemble.activation != "none" or len(ensemble.base) == 1:
        return ensemble, False

    def others(node: Node) -> Node:
        if node.left is None or node.right is None:
            return Node(value=node.value[1:])
        return replace(node, left=others(node.left), right=others(node.right))

    trees = tuple(others(tree) for tree in ensemble.trees)
    return Ensemble(trees, ensemble.base[1:], "none"), True
