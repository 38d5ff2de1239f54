"""Takes fields off the front of untrusted bytes and refuses to run past their end."""

import struct
from typing import Any

from privacy.errors import FormatError


class Reader:
    """A cursor over untrusted bytes."""

    def __init__(self, raw: bytes, *, what: str, limit: int | None = None) -> None:
        """Begin at the first byte.

        Args:
            raw: The bytes.
            what: What they are, for messages.
            limit: The most bytes such a thing has.

        Raises:
            FormatError: There are more than `limit`.
        """
        if limit is not None and len(raw) > limit:
            msg = f"the {what} has {len(raw)} bytes, at most {limit} are allowed"
            raise FormatError(msg, code="too-large")
        self._raw = raw
        self._what = what
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes not taken yet."""
        return len(self._raw) - self.at

    def take(self, size: int, what: str) -> bytes:
        """Return the next `size` bytes."""
        part = self._raw[self.at : self.at + size]
        if len(part) != size:
            msg = (
                f"the {self._what} ends in its {what}: {len(part)} of {size} bytes are "
                "there"
            )
            raise FormatError(msg, code="truncated")
        self.at += size
        return part

    def peek(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, without taking them."""
        return self._raw[self.at : self.at + size]

    def uint(self, size: int, what: str) -> int:
        """Return the next little-endian unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size, what), "little")

    def fields(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        """Return the next fields of a fixed layout."""
        return layout.unpack(self.take(layout.size, what))

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(self.left, "end")
