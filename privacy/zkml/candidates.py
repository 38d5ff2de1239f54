"""Settings to try for a circuit, and the gate that its answers must pass.

Fixed point changes answers, and some settings change them silently: trees have flipped
half of their labels. So nothing is published on the engine's word: a circuit's answers
are compared with the clear model's, and the smallest circuit that passes is taken.
"""

from typing import Any

import numpy as np

from privacy.activations import activate
from privacy.zkml.system import CircuitChoice

CANDIDATES = (
    CircuitChoice(11, 1024, 2, num_inner_cols=1, scale_rebase_multiplier=10),
    CircuitChoice(10, 1024, 2, num_inner_cols=1, scale_rebase_multiplier=1),
    CircuitChoice(9, 512, 5, num_inner_cols=2, scale_rebase_multiplier=10),
    CircuitChoice(12, 1024, 3, num_inner_cols=1, scale_rebase_multiplier=10),
    CircuitChoice(10, 1024, 5, num_inner_cols=2, scale_rebase_multiplier=10),
    CircuitChoice(13, 1024, 5, num_inner_cols=2, scale_rebase_multiplier=1),
)
"""Tried in the order of the circuits' sizes; of equals, the earlier first.

A small base keeps tables small, so wide values need more legs. A multiplier of 10 saves
rescalings but lets values grow: nets then need five legs.
"""

_SHARE = 0.99
_ERROR = 0.05
_RELATIVE_ERROR = 0.02


def shortfall(
    raw: Any, clear: Any, *, activation: str, task: str, share: float = _SHARE
) -> str:
    """Return why a circuit's answers are not good enough, or "" if they are.

    A row is good if its label is the clear model's (classification) and no output is
    off by more than 0.05, for probabilities, or 2 % of the clear outputs' spread, for
    anything else. One feature on a tree's threshold can flip one tree, so 1 % of the
    rows may miss.

    Args:
        raw: The circuit's raw outputs, shape (rows, outputs).
        clear: The clear model's raw outputs on the same rows.
        activation: See `privacy.bundle.Manifest`.
        task: See `privacy.bundle.Manifest`.
        share: How many of the rows must be good, 0 to 1.
    """
    ours, theirs = activate(raw, activation), activate(clear, activation)
    classes = task == "classification"
    probable = classes and bool((theirs >= 0).all() and (theirs <= 1).all())
    spread = float(theirs.max() - theirs.min())
    limit = _ERROR if probable else _RELATIVE_ERROR * spread
    error = np.abs(ours - theirs).max(axis=1)
    good = error <= limit
    if classes:
        good &= ours.argmax(axis=1) == theirs.argmax(axis=1)
    found = float(good.mean())
    if found >= share:
        return ""
    return (
        f"only {found:.0%} of {len(good)} rows keep their label within an error of "
        f"{limit:.3g} (largest {error.max():.3g}), {share:.0%} are needed"
    )
