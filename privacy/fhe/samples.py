"""Rows that anyone can make again, and what a circuit may answer to them.

The manifest, which the publisher signs, holds the answers; the rows follow from the
quantizers alone, so no row of anybody's is in it. A circuit that is built anew on
another machine must give these answers before it is signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.fhe.backend import Ints
from privacy.fhe.quantizers import Quantizer
from privacy.fhe.thermometer import Edges

_RARE = 2.0**-30
"""A look-up that errs less often than this is not seen to err here."""
_MOST = 0.5


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the greatest integers a circuit may give, (rows, …) each."""

    least: Ints
    most: Ints

    def hold(self, found: Ints, *, p_error: float) -> bool:
        """Return whether integers lie between; where look-ups err by choice, in most.

        Args:
            found: What rows decrypted to.
            p_error: Chance that one table look-up errs.
        """
        fits = (self.least <= found) & (found <= self.most)
        share = float(fits.reshape(len(found), -1).all(axis=1).mean())
        return share == 1.0 or (p_error > _RARE and share > _MOST)

    def to_json(self) -> Json:
        """Return the bounds as JSON."""
        return {"least": self.least.tolist(), "most": self.most.tolist()}


def parse_bounds(value: Json) -> Bounds:
    """Return the bounds that `to_json` described.

    Raises:
        FormatError: They are malformed.
    """
    try:
        least, most = (np.array(value[name]) for name in ("least", "most"))
        is_whole = least.dtype == most.dtype == np.int64
    except (KeyError, TypeError, ValueError) as exc:
        raise FormatError("the manifest's samples are malformed") from exc
    if not (is_whole and least.size and least.shape == most.shape):
        raise FormatError("the manifest's samples are malformed")
    return Bounds(least, most)


def sample_values(
    quantizers: Sequence[Quantizer] | Sequence[Edges], rows: int, *, features: int
) -> Ints:
    """Return quantized rows, (rows, inputs of the circuit), the same everywhere.

    Args:
        quantizers: One for all features, or one for each; or the edges of each.
        rows: How many.
        features: Width of a row before it is quantized.
    """
    each: list[Quantizer | Edges] = [*quantizers]
    each *= features if len(each) == 1 else 1
    found = [
        [v for i, q in enumerate(each) for v in _value(q, row, i)]
        for row in range(rows)
    ]
    return np.array(found, dtype=np.int64)


def _value(quantizer: Quantizer | Edges, row: int, feature: int) -> list[int]:
    digest = sha256(f"privacy-compute/fhe-sample/{row}/{feature}".encode()).digest()
    number = int.from_bytes(digest[:8])
    if isinstance(quantizer, Edges):
        above = number % (len(quantizer.edges) + 1)
        return [int(i < above) for i in range(len(quantizer.edges))]
    return [quantizer.low + number % (quantizer.high - quantizer.low + 1)]
