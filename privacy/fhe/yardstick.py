"""How much a quantized circuit loses against the clear model, in percentage points.

With true labels, of accuracy; for a classifier without them, of label agreement with
the clear model; otherwise of variance: mean squared difference over the clear output's
variance, of the output that loses most. Circuits are fitted on some rows and judged on
others, several times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from privacy.activations import activate
from privacy.fhe.backend import Floats, Ints
from privacy.publishing import lost_by_output

FOLDS = 4
_MIN_ROWS = 40
"""With fewer, a fold says too little: all rows are fitted and judged at once."""

Outputs = Callable[[Floats], Floats]
"""From standardised rows to raw outputs."""
Fit = Callable[[Floats], Outputs]
"""From calibration rows to what a circuit calibrated on them would answer."""


@dataclass(frozen=True)
class Yardstick:
    """Rows with the clear model's outputs, and true classes where they are known.

    Attributes:
        rows: Standardised, (rows, features).
        clear: The clear model's raw outputs, (rows, outputs).
        truth: Class index of each row, or None.
        activation: See `privacy.bundle.Manifest`, as `task`.
    """

    rows: Floats
    clear: Floats
    truth: Ints | None
    activation: str
    task: str

    @property
    def measures(self) -> str:
        """`accuracy`, `label_agreement` or `variance`."""
        if self.task != "classification":
            return "variance"
        return "label_agreement" if self.truth is None else "accuracy"

    def losses(self, fit: Fit) -> tuple[float, ...]:
        """Return the loss on each fold of a circuit fitted on the other folds."""
        return tuple(
            self._lost(fit(self.rows[seen])(self.rows[kept]), kept)
            for seen, kept in self._folds
        )

    def losses_of(self, outputs: Outputs) -> tuple[float, ...]:
        """Return the loss on each fold of a circuit that was fitted on all rows."""
        return self.losses(lambda _: outputs)

    @cached_property
    def _folds(self) -> list[tuple[Ints, Ints]]:
        order = np.random.default_rng(0).permutation(len(self.rows))
        if len(order) < _MIN_ROWS:
            return [(order, order)]
        parts = np.array_split(order, FOLDS)
        return [(np.setdiff1d(order, part), part) for part in parts]

    def _lost(self, raw: Floats, at: Ints) -> float:
        ours, theirs = self._answers(raw), self._answers(self.clear[at])
        if self.measures == "variance":
            lost = lost_by_output(ours, theirs, among=self._answers(self.clear))
            return 100.0 * float(lost.max())
        found, wanted = ours.argmax(axis=1), theirs.argmax(axis=1)
        if self.truth is None:
            return 100.0 * float((found != wanted).mean())
        right = (wanted == self.truth[at]).mean() - (found == self.truth[at]).mean()
        return 100.0 * float(right)

    def _answers(self, raw: Floats) -> Any:
        return activate(raw, self.activation)
