"""The gate that a circuit's answers must pass.

Fixed point changes answers, and some settings change them silently: trees have flipped
half of their labels. So nothing is published on the engine's word: a circuit's answers
are compared with the clear model's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.activations import activate

_ERROR = 0.05
_RELATIVE_ERROR = 0.02


@dataclass(frozen=True, slots=True)
class Grade:
    """How close a circuit must come.

    Attributes:
        part: The part of the allowed error that may be used, 0 to 1.
        share: How many of the rows must be good, 0 to 1.
    """

    part: float
    share: float


GATE = Grade(part=1.0, share=0.99)
"""What every published circuit must pass."""

GRADES = (Grade(part=0.1, share=1.0), GATE)
"""What tuning aims at, best first."""


def shortfall(
    raw: Any,
    clear: Any,
    *,
    activation: str,
    task: str,
    grade: Grade = GATE,
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
        grade: How many rows must be good, and how good.
    """
    ours, theirs = activate(raw, activation), activate(clear, activation)
    classes = task == "classification"
    probable = classes and bool((theirs >= 0).all() and (theirs <= 1).all())
    spread = float(theirs.max() - theirs.min())
    limit = grade.part * (_ERROR if probable else _RELATIVE_ERROR * spread)
    error = np.abs(ours - theirs).max(axis=1)
    good = error <= limit
    if classes:
        good &= ours.argmax(axis=1) == theirs.argmax(axis=1)
    found = float(good.mean())
    if found >= grade.share:
        return ""
    return (
        f"only {found:.0%} of {len(good)} rows keep their label within an error of "
        f"{limit:.3g} (largest {error.max():.3g}), {grade.share:.0%} are needed"
    )
