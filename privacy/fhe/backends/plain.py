"""What Concrete-ML made, in plain numbers, and rows that reach its inputs' ends."""

from typing import Any

import numpy as np

from privacy.errors import BackendError
from privacy.fhe.backend import Floats, Ints
from privacy.fhe.quantizers import OutputSteps, Quantizer

_EXTREME_ROWS = 64


def extremes(
    quantizers: tuple[Quantizer, ...], low: Ints, high: Ints, *signs: Any
) -> list[Floats]:
    """Return rows at the ends of the input range, so that no accumulator overflows.

    Concrete sizes a circuit by the values it sees on the rows it is given. These are
    both corners, random corners, random points and the corners that `signs` names.
    """
    rng = np.random.default_rng(0)
    shape = (_EXTREME_ROWS, len(low))
    picks = rng.integers(0, 2, size=shape)
    named = [np.where(s > 0, high, low) for s in signs]
    integers = [low[None], high[None], np.where(picks, high, low), *named]
    integers.append(rng.integers(low, high + 1, size=shape))
    scale = np.array([q.scale for q in quantizers])
    zero_point = np.array([q.zero_point for q in quantizers])
    return [scale * (np.asarray(i) - zero_point) for i in integers]


def input_quantizers(found: Any) -> tuple[Quantizer, ...]:
    """Return Concrete-ML's input quantizers as plain numbers.

    Raises:
        BackendError: One has no bounds.
    """
    out = []
    for q in found:
        if q.no_clipping:
            msg = "Concrete-ML left an input quantizer without bounds"
            raise BackendError(msg, code="fhe-unsupported-quantizer")
        narrow = int(getattr(q, "is_narrow", False))
        out.append(
            Quantizer(
                scale=float(q.scale),
                zero_point=int(q.zero_point),
                low=narrow - int(q.offset),
                high=2 ** int(q.n_bits) - 1 - int(q.offset),
            )
        )
    return tuple(out)


def output_steps(
    quantizer: Any, *, sum_last: bool = False, add: tuple[float, ...] = (0.0,)
) -> OutputSteps:
    """Return Concrete-ML's output quantizer as plain numbers."""
    zero_point = np.atleast_1d(np.asarray(quantizer.zero_point)).ravel()
    return OutputSteps(
        scale=float(quantizer.scale),
        zero_point=tuple(float(z) for z in zero_point),
        sum_last=sum_last,
        add=add,
    )
