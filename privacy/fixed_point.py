"""Numbers as circuits compute on them: fixed point, then elements of BN254's field.

A real x becomes the integer rint(x * 2**scale_bits), and that integer v becomes the
field element v mod MODULUS, so that small negative numbers lie just below MODULUS.
Quantising is ours, not the engine's: a client can repeat it exactly.
"""

from typing import Any

from privacy.errors import FormatError

MODULUS = 0x30644E72E131A029B85045B68181585D2833E84879B9709143E1F593F0000001
"""Order of the scalar field of BN254 (EIP-197)."""

_EXACT = 1 << 24
"""Below this every integer is a float32, so the engine reads back what we wrote."""


def quantize(rows: Any, *, scale_bits: int) -> list[list[int]]:
    """Return the integers the circuit computes on.

    Args:
        rows: Standardised features, shape (rows, features), finite.
        scale_bits: Fixed-point bits; one unit is 2**-scale_bits.

    Raises:
        FormatError: A value is not finite, or is 2**24 units or more.
    """
    import numpy as np

    with np.errstate(over="ignore"):  # an infinity is refused below
        scaled = np.rint(np.asarray(rows, dtype=np.float64) * 2.0**scale_bits)
    if not (np.abs(scaled) < _EXACT).all():  # NaN fails this too
        limit = _EXACT >> scale_bits
        msg = f"a feature is not finite or beyond ±{limit}: check the input's units"
        raise FormatError(msg, code="out-of-range")
    return [[int(x) for x in row] for row in scaled]


def signed(element: int) -> int:
    """Return the integer of least magnitude that the field element stands for."""
    return element - MODULUS if element > MODULUS // 2 else element
