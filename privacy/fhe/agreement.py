"""Whether two runs of one job may both be honest.

A circuit that is exact gives the same integers on every node. One that rounds
approximately may be off within bounds that the manifest's samples show. And every table
look-up errs with a small chance, which the publisher may have raised for speed: then
single rows differ by chance, and only many of them show a node that lies.
"""

import math
from dataclasses import dataclass

import numpy as np

from privacy.encoding import Json
from privacy.errors import CannotVerifyError
from privacy.fhe.backend import Ints
from privacy.fhe.options import DEFAULT_P_ERROR
from privacy.fhe.samples import parse_bounds

_CHANCE = 1e-6
"""Of honest runs, those that may be taken to differ."""
_LOOKUPS = 1536
"""More than a row takes, of the models we know whose manifests do not say how many."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far honest runs of a model may differ.

    Attributes:
        apart: Two honest integers are at most so far apart, unless a look-up errs.
        row_errs: The chance that one did, in either of two runs of a row.
    """

    apart: int
    row_errs: float

    def differing(self, a: Ints, b: Ints) -> int:
        """Return in how many rows two runs, (rows, …) each, differ by more."""
        far = np.abs(a.astype(np.int64) - b.astype(np.int64)) > self.apart
        return int(far.reshape(len(far), -1).any(axis=1).sum())

    def allows(self, differing: int, rows: int) -> bool:
        """Return whether so many of these rows may differ among honest nodes."""
        if not differing:
            return True
        p = self.row_errs
        tail = sum(
            math.comb(rows, k) * p**k * (1 - p) ** (rows - k)
            for k in range(differing, rows + 1)
        )
        return tail > _CHANCE


def agreement_of(params: Json) -> Agreement:
    """Return how far honest runs may differ, by the manifest's part of mode fhe.

    Raises:
        CannotVerifyError: It does not say how far the circuit's answers may lie apart.
    """
    p_error = params.get("p_error", DEFAULT_P_ERROR)
    if "samples" not in params or not isinstance(p_error, int | float):
        msg = (
            "the manifest does not say how far honest answers may lie apart: "
            "the model must be republished, or has a circuit of which nobody knows"
        )
        raise CannotVerifyError(msg, code="no-bounds")
    bounds = parse_bounds(params["samples"])
    width = int((bounds.most - bounds.least).max())
    said = params.get("look_ups")
    look_ups = max(said, 1) if type(said) is int else _LOOKUPS
    row_errs = 1 - (1 - min(1.0, max(0.0, p_error))) ** (2 * look_ups)
    # Rows of the job may round further apart than the samples; exact ones never do.
    return Agreement(2 * width, row_errs)
