"""A small CBOR decoder for untrusted bytes: the subset that Nitro documents use.

Integers, byte and text strings, arrays, maps, tag 18, true, false and null, all of
definite length. Depth and sizes are bounded by the input, a map names a key once, and
numbers have their shortest encoding. Everything else is refused.

Source: RFC 8949, section 3; deterministic lengths as in section 4.2.1.
"""

from typing import Any

from privacy.errors import FormatError
from privacy.tee.reader import Reader

_MAX_DEPTH = 8
_SIMPLE = {20: False, 21: True, 22: None}
_INLINE, _LONGEST = 24, 27
_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
COSE_SIGN1_TAG = 18


def decode(raw: bytes, *, what: str) -> Any:
    """Return the one CBOR item in `raw`; nothing may follow it.

    Raises:
        FormatError: Not such an item.
    """
    reader = Reader(raw, what=what)
    value = _item(reader, what, 0)
    if reader.left:
        raise FormatError(
            f"{reader.left} bytes follow the {what}", code="not-canonical"
        )
    return value


def encode_head(major: int, value: int) -> bytes:
    """Return the head of an item: its type and its number or length."""
    if value < _INLINE:
        return bytes([major << 5 | value])
    step = next(i for i in range(4) if value < 1 << (8 << i))
    return bytes([major << 5 | _INLINE + step]) + value.to_bytes(1 << step, "big")


def _item(reader: Reader, what: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise FormatError(f"the {what} is nested too deeply", code="too-deep")
    first = reader.uint(1, "item")
    major, number = first >> 5, first & 0x1F
    if major > _TAG:
        if number in _SIMPLE:
            return _SIMPLE[number]
        raise FormatError(f"the {what} holds an unknown simple value: {number}")
    number = _number(reader, number, what)
    if major in {_UINT, _NEGATIVE}:
        return number if major == _UINT else -1 - number
    if major in {_BYTES, _TEXT}:
        content = reader.take(number, "string")
        return content if major == _BYTES else _text(content, what)
    return _container(reader, what, depth, major, number)


def _container(reader: Reader, what: str, depth: int, major: int, number: int) -> Any:
    if major == _TAG:
        if number != COSE_SIGN1_TAG or depth:
            raise FormatError(f"the {what} holds an unknown tag: {number}")
        return _item(reader, what, depth + 1)
    _check_count(reader, number * (2 if major == _MAP else 1), what)
    if major == _ARRAY:
        return [_item(reader, what, depth + 1) for _ in range(number)]
    return _map(reader, number, what, depth)


def _number(reader: Reader, number: int, what: str) -> int:
    if number < _INLINE:
        return number
    if number > _LONGEST:
        raise FormatError(f"the {what} holds an item of no definite length")
    size = 1 << (number - _INLINE)
    value = int.from_bytes(reader.take(size, "number"), "big")
    if value < (_INLINE if size == 1 else 1 << (size * 4)):
        msg = f"the {what} holds a number that is not in its shortest form"
        raise FormatError(msg, code="not-canonical")
    return value


def _check_count(reader: Reader, count: int, what: str) -> None:
    if count > reader.left:  # every item takes a byte at least
        msg = f"the {what} promises {count} items in {reader.left} bytes"
        raise FormatError(msg, code="truncated")


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise FormatError(f"a text in the {what} is not UTF-8") from exc


def _map(reader: Reader, count: int, what: str, depth: int) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for _ in range(count):
        key = _item(reader, what, depth + 1)
        if type(key) not in {int, str} or key in found:
            raise FormatError(f"the {what} holds a map with an odd or repeated key")
        found[key] = _item(reader, what, depth + 1)
    return found
