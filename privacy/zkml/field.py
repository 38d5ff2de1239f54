"""Elements of BN254's field as text; see `privacy.fixed_point`."""

from privacy.errors import FormatError
from privacy.fixed_point import MODULUS, quantize, signed

__all__ = ["MODULUS", "dequantize", "from_hex", "quantize", "signed", "to_hex"]


def dequantize(values: list[int], *, scale_bits: int) -> list[float]:
    """Return the real numbers behind field elements at a fixed-point scale."""
    return [signed(v) / 2.0**scale_bits for v in values]


def to_hex(element: int) -> str:
    """Return a field element as 64 hex digits, big-endian."""
    return f"{element % MODULUS:064x}"


def from_hex(text: object, *, what: str) -> int:
    """Return the field element in 64 lowercase hex digits, big-endian.

    Raises:
        FormatError: Another spelling, or a number that is not below MODULUS.
    """
    if (
        not isinstance(text, str)
        or len(text) != 64  # noqa: PLR2004 - 32 bytes
        or not set(text) <= set("0123456789abcdef")
    ):
        msg = f"{what} is not 64 lowercase hex digits"
        raise FormatError(msg)
    element = int(text, 16)
    if element >= MODULUS:
        msg = f"{what} is not below the field's modulus: it has a second spelling"
        raise FormatError(msg, code="not-canonical")
    return element
