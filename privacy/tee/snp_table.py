"""The certificates that a host gives an SEV-SNP guest beside its report. Pure.

    entries    GUID 16 bytes, offset u32, length u32, little-endian; zeros end them
    contents   DER, at those offsets

Linux hands the table out as `auxblob` (configfs-tsm). Evidence in one piece is the
report with the table behind it. The table is the host's word: what it holds counts only
once it chains to a pinned root.

Source: AMD SEV-ES GHCB specification (56421), section "SNP Extended Guest Request".
"""

import struct
from collections.abc import Mapping
from uuid import UUID

from privacy.errors import FormatError
from privacy.tee.reader import Reader

VCEK_ID = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK_ID = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK_ID = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
ARK_ID = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")

MAX_BYTES = 1 << 16
_ENTRY = struct.Struct("<16sII")
_CERTIFICATES = {VCEK_ID, VLEK_ID, ASK_ID, ARK_ID}
_MAX_ENTRIES = 16


def parse_certificate_table(raw: bytes) -> dict[UUID, bytes]:
    """Return the contents of a table by identifier.

    Raises:
        FormatError: Not such a table, entries overlap, or there is more in it.
    """
    what = "certificate table"
    reader = Reader(raw, what=what, limit=MAX_BYTES)
    found: dict[UUID, bytes] = {}
    ranges = []
    while (entry := reader.fields(_ENTRY, "entry")) != (bytes(16), 0, 0):
        name, offset, length = UUID(bytes=entry[0]), entry[1], entry[2]
        if name in found or len(found) == _MAX_ENTRIES:
            raise FormatError(
                f"the {what} names {name} twice, or too many", code="unsupported-table"
            )
        found[name] = raw[offset : offset + length]
        ranges.append((offset, offset + length))
    at = reader.at
    for start, end in sorted(ranges):
        if not at <= start < end <= len(raw):
            msg = f"an entry of the {what} is empty, overlaps another or runs past it"
            raise FormatError(msg, code="unsupported-table")
        if any(raw[at:start]):
            break
        at = end
    if any(raw[at:]):
        raise FormatError(f"the {what} holds bytes of no entry", code="not-canonical")
    return found


def certificates_of(raw: bytes) -> tuple[bytes, ...]:
    """Return the certificates in a table, DER; nothing else that it may hold.

    Raises:
        FormatError: See `parse_certificate_table`.
    """
    table = parse_certificate_table(raw)
    return tuple(der for name, der in table.items() if name in _CERTIFICATES)


def certificate_table(contents: Mapping[UUID, bytes]) -> bytes:
    """Return the table of these contents."""
    offset = _ENTRY.size * (len(contents) + 1)
    head = b""
    for name, content in contents.items():
        head += _ENTRY.pack(name.bytes, offset, len(content))
        offset += len(content)
    return head + bytes(_ENTRY.size) + b"".join(contents.values())
