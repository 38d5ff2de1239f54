"""Bytes on the wire: canonical JSON, digests, base64url and framed lists."""

import base64
import binascii
import codecs
import hashlib
import json
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rfc8785

from privacy.errors import FormatError

Json = dict[str, Any]

# What rfc8785 sorts names by; found now, as a sandboxed process opens no file later.
codecs.lookup("utf-16be")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAGIC = b"PCF1"
_CHUNK = 1 << 20
_MAX_DEPTH = 100
_MOST_INTEGER = (1 << 53) - 1
_LEAST_FRACTION, _MOST_FRACTION = 1e-4, 1e16
_PLAIN = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False
)
_JSON_STRING = re.compile(rb'"[^"]*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def canonical_json(value: object) -> bytes:
    """Return the one RFC 8785 encoding of a JSON value.

    Raises:
        FormatError: The value holds NaN, an infinity or something JSON cannot say.
    """
    try:
        if _is_plain(value):  # the standard library says the same, and sooner
            return _PLAIN.encode(value).encode()
        return rfc8785.dumps(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, RecursionError) as exc:
        # Only the type: the library's message quotes the value.
        msg = f"not representable as canonical JSON ({type(exc).__name__})"
        raise FormatError(msg, code="not-json") from exc


def _is_plain(value: object) -> bool:
    """Whether the standard library writes a value as RFC 8785 does.

    It holds ASCII texts, small integers, true, false, null, and such fractions only as
    nobody writes with an exponent.
    """
    if type(value) is str:
        return value.isascii()
    if type(value) is dict:
        return all(
            type(name) is str and name.isascii() and _is_plain(one)
            for name, one in value.items()
        )
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is float:
        return _LEAST_FRACTION <= abs(value) < _MOST_FRACTION and value % 1 != 0
    if type(value) is int:
        return -_MOST_INTEGER <= value <= _MOST_INTEGER
    return value is None or value is True or value is False


def parse_json(raw: bytes, *, what: str, limit: int = 1 << 26) -> Any:
    """Return the JSON value in `raw`; NaN, 1e999 and duplicate names are refused.

    Raises:
        FormatError: `raw` is not strict JSON, is nested too deeply, or is longer than
            `limit` bytes.
    """
    if len(raw) > limit:
        msg = f"{what} has {len(raw)} bytes, at most {limit} are allowed"
        raise FormatError(msg, code="too-large")
    if _too_deep(raw):
        msg = f"{what} is not valid JSON, or is nested more than {_MAX_DEPTH} deep"
        raise FormatError(msg, code="not-json")
    try:
        return json.loads(
            raw.decode(),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_unique_names,
        )
    except (ValueError, RecursionError) as exc:
        msg = f"{what} is not valid JSON: {exc}"
        raise FormatError(msg, code="not-json") from exc


def _too_deep(raw: bytes) -> bool:
    """Whether lists and objects are nested too deeply, or do not close.

    Python's parser recurses on the C stack as far as `sys.setrecursionlimit` allows,
    which libraries raise to where the process crashes (py_ecc: 100,000).
    """
    if raw.count(b"[") + raw.count(b"{") <= _MAX_DEPTH:
        return False
    unescaped = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = _JSON_STRING.sub(b"", unescaped).translate(None, _NO_BRACKETS)
    for _ in range(_MAX_DEPTH):
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(brackets) == before:
            break
    return bool(brackets)


def parse_object(raw: bytes, *, what: str, limit: int = 1 << 26) -> Json:
    """Return the JSON object in `raw`; see `parse_json`."""
    value = parse_json(raw, what=what, limit=limit)
    if not isinstance(value, dict):
        msg = f"{what} is a JSON {type(value).__name__}, expected an object"
        raise FormatError(msg)
    return value


def parse_canonical(raw: bytes, *, what: str, limit: int = 1 << 26) -> Json:
    """Return the JSON object in `raw`, which must be its canonical encoding exactly.

    One final newline is allowed, since editors add one.
    """
    value = parse_object(raw, what=what, limit=limit)
    if canonical_json(value) != raw.removesuffix(b"\n"):
        msg = (
            f"{what} is not in canonical form (RFC 8785): it was changed or re-encoded"
        )
        raise FormatError(msg, code="not-canonical")
    return value


def _no_constant(name: str) -> None:
    msg = f"{name} is not a JSON number"
    raise ValueError(msg)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        msg = "a number is too large"
        raise ValueError(msg)
    return value


def _unique_names(pairs: list[tuple[str, Any]]) -> Json:
    out = dict(pairs)
    if len(out) != len(pairs):
        msg = "an object names a member twice"
        raise ValueError(msg)
    return out


def sha256_hex(raw: bytes) -> str:
    """Return the SHA-256 digest of `raw` as 64 lowercase hex digits."""
    return hashlib.sha256(raw).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 digest of a file as 64 lowercase hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(text: str, *, what: str = "digest") -> str:
    """Return `text` if it is 64 lowercase hex digits.

    Raises:
        FormatError: It is not.
    """
    if not _SHA256.fullmatch(text):
        msg = f"{what} {text[:80]!r} is not 64 lowercase hex digits (SHA-256)"
        raise FormatError(msg, code="bad-digest")
    return text


def b64url(raw: bytes) -> str:
    """Return `raw` as base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def b64url_decode(text: str, *, what: str) -> bytes:
    """Return the bytes behind an unpadded base64url text, refusing second spellings."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as exc:
        msg = f"{what} is not base64url"
        raise FormatError(msg) from exc
    if b64url(raw) != text:
        msg = f"{what} is not canonical base64url"
        raise FormatError(msg, code="not-canonical")
    return raw


def pack(frames: Sequence[bytes]) -> bytes:
    """Return byte strings as one: magic, u32 count, then u64 length and bytes each."""
    head = _MAGIC + struct.pack("<I", len(frames))
    return head + b"".join(struct.pack("<Q", len(f)) + f for f in frames)


def unpack(raw: bytes, *, what: str, max_frames: int = 4096) -> list[bytes]:
    """Return the byte strings that `pack` joined; trailing bytes are refused.

    Raises:
        FormatError: Not such a list, too many frames, or bytes missing or left over.
    """
    if raw[:4] != _MAGIC or len(raw) < 8:  # noqa: PLR2004 - magic and count
        msg = f"{what} does not begin with the frame header: it is not a packed list"
        raise FormatError(msg)
    (count,) = struct.unpack_from("<I", raw, 4)
    if not 0 < count <= max_frames:
        msg = f"{what} claims {count} frames, expected 1 to {max_frames}"
        raise FormatError(msg)
    frames, at = [], 8
    for _ in range(count):
        if at + 8 > len(raw):
            break
        (size,) = struct.unpack_from("<Q", raw, at)
        frames.append(raw[at + 8 : at + 8 + size])
        at += 8 + size
    if at != len(raw) or len(frames) != count:
        msg = f"{what} is truncated or has trailing bytes"
        raise FormatError(msg, code="truncated")
    return frames


def finite_rows(value: object, *, columns: int, max_rows: int) -> list[list[float]]:
    """Return `value` as rows of finite floats, each `columns` wide.

    Raises:
        FormatError: Not a list of such rows, none, too many, NaN or an infinity.
    """
    if not isinstance(value, list) or not value:
        raise FormatError("the input has no rows: give at least one", code="no-rows")
    if len(value) > max_rows:
        msg = f"the input has {len(value)} rows, at most {max_rows} a job: split it"
        raise FormatError(msg, code="too-many-rows")
    return [_finite_row(row, i, columns) for i, row in enumerate(value)]


def _finite_row(row: object, index: int, columns: int) -> list[float]:
    if not isinstance(row, list) or len(row) != columns:
        found = len(row) if isinstance(row, list) else type(row).__name__
        msg = f"row {index + 1} has {found} features, the model takes {columns}"
        raise FormatError(msg, code="wrong-feature-count")
    out = []
    for j, x in enumerate(row):
        if isinstance(x, bool) or not isinstance(x, int | float):
            msg = (
                f"row {index + 1}, column {j + 1} is a {type(x).__name__}, not a number"
            )
            raise FormatError(msg, code="not-a-number")
        try:
            number = float(x)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            msg = f"row {index + 1}, column {j + 1} is not finite"
            raise FormatError(msg, code="not-finite")
        out.append(number)
    return out
