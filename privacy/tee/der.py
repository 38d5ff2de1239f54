"""A strict reader for the little DER that vendors put into certificate extensions."""

from collections.abc import Iterator

from privacy.errors import FormatError
from privacy.tee.reader import Reader

SEQUENCE, INTEGER, OCTETS, OID, ENUM = 0x30, 0x02, 0x04, 0x06, 0x0A
_LONG, _MAX_LENGTH_BYTES = 0x80, 3


def elements(raw: bytes, *, what: str) -> Iterator[tuple[int, bytes]]:
    """Give tag and content of each element, one after the other.

    Raises:
        FormatError: Not DER, or longer than 16 MiB.
    """
    reader = Reader(raw, what=what)
    while reader.left:
        tag = reader.uint(1, "tag")
        size = reader.uint(1, "length")
        if size & _LONG:
            count = size & ~_LONG
            digits = reader.take(count, "length")
            size = int.from_bytes(digits, "big")
            if not 0 < count <= _MAX_LENGTH_BYTES or not digits[0] or size < _LONG:
                raise FormatError(f"the {what} is not DER", code="not-canonical")
        yield tag, reader.take(size, "content")


def only(raw: bytes, tag: int, *, what: str) -> bytes:
    """Return the content of the one element in `raw`, which must have this tag."""
    found = list(elements(raw, what=what))
    if len(found) != 1 or found[0][0] != tag:
        raise FormatError(f"the {what} is not one element of type {tag:#x}")
    return found[0][1]


def integer(content: bytes, *, what: str) -> int:
    """Return a non-negative integer of at most 8 bytes from its content."""
    limit = 8
    if not 0 < len(content) <= limit or content[0] & 0x80:
        raise FormatError(f"the {what} is not a small non-negative integer")
    if len(content) > 1 and not content[0] and not content[1] & 0x80:
        raise FormatError(f"the {what} is not DER", code="not-canonical")
    return int.from_bytes(content, "big")


def oid_values(raw: bytes, *, what: str) -> dict[bytes, tuple[int, bytes]]:
    """Return a sequence of (OID, value) pairs as tag and content by OID (DER content).

    Raises:
        FormatError: Not such a sequence, or an OID comes twice.
    """
    found: dict[bytes, tuple[int, bytes]] = {}
    for tag, pair in elements(raw, what=what):
        parts = list(elements(pair, what=what)) if tag == SEQUENCE else []
        shaped = len(parts) == 2 and parts[0][0] == OID  # noqa: PLR2004 - a pair
        if not shaped or parts[0][1] in found:
            raise FormatError(f"the {what} is not a list of different (OID, value)")
        found[parts[0][1]] = parts[1]
    return found
