"""Event logs of confidential guests (CCEL): which events made each register. Pure.

Firmware and boot loader extend the runtime registers of a trust domain, RTMR0 to 3, and
write each event down. The registers are attested, the log is not: it is believed as far
as replaying its digests gives the registers' values, and an event's content as far as
its digest is the content's.

A log is a TCG crypto-agile one: a header that names the digest algorithms, then events
to its end, which padding of 0xff or zero bytes may follow.

Source: TCG PC Client Platform Firmware Profile 1.05, section 10; UEFI 2.10, section 38
(the Intel TDX mapping: register 0 is MRTD, 1 to 4 are RTMR0 to RTMR3).
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from privacy.encoding import Json
from privacy.errors import FormatError
from privacy.tee.checks import Check
from privacy.tee.parse import REGISTER_BYTES, REGISTERS
from privacy.tee.reader import Reader

MAX_BYTES = 1 << 22
_MAX_EVENTS = 1 << 15
_SHA384 = 0x000C
_DIGEST_BYTES = {0x0004: 20, 0x000B: 32, _SHA384: 48, 0x000D: 64, 0x0012: 32}
_FIRST = struct.Struct("<II20sI")
_SPEC_ID = struct.Struct("<16sIBBBBI")
_SIGNATURE = b"Spec ID Event03\0"
_ALGORITHM = struct.Struct("<HH")
_NO_ACTION, _TAG = 3, 6
_TYPES = {
    _NO_ACTION: "EV_NO_ACTION",
    0x00: "EV_PREBOOT_CERT",
    0x01: "EV_POST_CODE",
    0x04: "EV_SEPARATOR",
    0x05: "EV_ACTION",
    _TAG: "EV_EVENT_TAG",
    0x07: "EV_S_CRTM_CONTENTS",
    0x08: "EV_S_CRTM_VERSION",
    0x09: "EV_CPU_MICROCODE",
    0x0A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0B: "EV_TABLE_OF_DEVICES",
    0x0C: "EV_COMPACT_HASH",
    0x0D: "EV_IPL",
    0x0E: "EV_IPL_PARTITION_DATA",
    0x0F: "EV_NONHOST_CODE",
    0x10: "EV_NONHOST_CONFIG",
    0x11: "EV_NONHOST_INFO",
    0x12: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
}
_VARIABLES = {0x80000001, 0x80000002, 0x8000000C, 0x800000E0}
_VARIABLE = struct.Struct("<16sQQ")
_TAG_HEAD = struct.Struct("<II")
_SHOWN = 160
RTMRS = REGISTERS[1:]


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as the log tells it.

    Attributes:
        register: `mrtd` or `rtmr0` to `rtmr3`.
        kind: Number of its type.
        digest: SHA-384, 48 bytes: what the register was extended with.
        content: What happened; how it is hashed depends on the type.
    """

    register: str
    kind: int
    digest: bytes
    content: bytes

    @property
    def extends(self) -> bool:
        """Whether it is in the register's value."""
        return self.kind != _NO_ACTION

    @property
    def is_of_content(self) -> bool:
        """Whether the digest is the content's, so that the content can be believed."""
        hashed = self.content
        if self.kind == _TAG:
            hashed = hashed[_TAG_HEAD.size :]
        either = {hashlib.sha384(c).digest() for c in (self.content, hashed)}
        return self.digest in either

    def as_dict(self) -> Json:
        """Return the event JSON-ready."""
        return {
            "register": self.register,
            "type": _TYPES.get(self.kind, f"{self.kind:#x}"),
            "digest": self.digest.hex(),
            "digest_is_of_content": self.is_of_content,
            "content": _words(self.kind, self.content),
        }


def parse_event_log(raw: bytes) -> tuple[Event, ...]:
    """Return the events in a log, in order.

    Raises:
        FormatError: Not such a log, without SHA-384 or events, or over 4 MiB.
    """
    reader = Reader(raw, what="event log", limit=MAX_BYTES)
    sizes = _algorithms(reader)
    events = tuple(_events(reader, sizes))
    rest = reader.rest()
    if rest.strip(b"\xff") and rest.strip(b"\0"):
        raise FormatError("bytes follow the event log", code="not-canonical")
    if not events:  # it would be taken for none given, and explain nothing
        raise FormatError("the event log holds no event", code="unsupported-log")
    return events


def _algorithms(reader: Reader) -> dict[int, int]:
    """Return the size of digests by algorithm, from the log's first event."""
    _, kind, digest, size = reader.fields(_FIRST, "first event")
    head = Reader(reader.take(size, "first event"), what="event log's header")
    signature, *_, count = head.fields(_SPEC_ID, "specification")
    if (kind, signature, any(digest)) != (_NO_ACTION, _SIGNATURE, False):
        msg = "the event log does not begin with a TCG specification event, version 2"
        raise FormatError(msg, code="unsupported-log")
    sizes: dict[int, int] = {}
    for _ in range(min(count, len(_DIGEST_BYTES) + 1)):
        algorithm, size = head.fields(_ALGORITHM, "algorithm")
        if _DIGEST_BYTES.get(algorithm) != size or algorithm in sizes:
            msg = f"the event log has digests {algorithm:#x} of {size} bytes"
            raise FormatError(msg, code="unsupported-log")
        sizes[algorithm] = size
    head.take(head.uint(1, "vendor size"), "vendor information")
    if _SHA384 not in sizes or head.left:
        msg = "the event log has no SHA-384 digests, or bytes follow its header"
        raise FormatError(msg, code="unsupported-log")
    return sizes


def _events(reader: Reader, sizes: Mapping[int, int]) -> Iterator[Event]:
    for _ in range(_MAX_EVENTS):
        if _is_padding(reader.peek(8)):
            return
        register, kind = reader.uint(4, "register"), reader.uint(4, "type")
        if register >= len(REGISTERS):
            msg = f"the event log names register {register}, expected 0 to 4"
            raise FormatError(msg, code="unsupported-log")
        digests: dict[int, bytes] = {}
        for _ in range(min(reader.uint(4, "count"), len(sizes) + 1)):
            algorithm = reader.uint(2, "algorithm")
            digests[algorithm] = reader.take(sizes.get(algorithm, 0), "digest")
        if digests.keys() != sizes.keys():
            msg = "an event has other digests than the event log's header names"
            raise FormatError(msg, code="unsupported-log")
        content = reader.take(reader.uint(4, "size"), "event")
        yield Event(REGISTERS[register], kind, digests[_SHA384], content)
    raise FormatError(f"the event log has over {_MAX_EVENTS} events", code="too-large")


def _is_padding(head: bytes) -> bool:
    """An event of type 0 in register 0 does not exist: certificates are not logged."""
    return not head.strip(b"\xff") or not head.strip(b"\0")


def replay(events: tuple[Event, ...]) -> dict[str, bytes]:
    """Return the value that the events give each runtime register, 48 bytes."""
    values = dict.fromkeys(RTMRS, bytes(REGISTER_BYTES))
    for event in events:
        if event.extends and event.register in values:
            value = values[event.register] + event.digest
            values[event.register] = hashlib.sha384(value).digest()
    return values


def compare(events: tuple[Event, ...], measurements: Mapping[str, str]) -> list[Check]:
    """Return a line for each runtime register: does the log explain its value?

    Args:
        events: From `parse_event_log`.
        measurements: Attested registers by name, in hex.

    Raises:
        FormatError: The evidence has no runtime registers.
    """
    if not set(RTMRS) <= set(measurements):
        msg = "there is an event log, but the evidence has no runtime registers (RTMR)"
        raise FormatError(msg, code="event-log-unused")
    lines = []
    for name, value in replay(events).items():
        ok, count = value.hex() == measurements[name], _count(events, name)
        found = f"{value.hex()} after {count} events"
        code = "ok" if ok else "event-log-mismatch"
        expected = measurements[name]
        lines.append(Check(f"event-log {name}", found, expected, ok=ok, code=code))
    return lines


def _count(events: tuple[Event, ...], register: str) -> int:
    return sum(e.extends and e.register == register for e in events)


def _words(kind: int, content: bytes) -> str:
    """Return what can be read of an event's content."""
    if kind in _VARIABLES and len(content) >= _VARIABLE.size:
        _, length, _ = _VARIABLE.unpack(content[: _VARIABLE.size])
        name = content[_VARIABLE.size :][: 2 * min(length, _SHOWN)]
        return name.decode("utf-16-le", errors="replace")
    if content[1:2] == b"\0":
        content = content.decode("utf-16-le", errors="replace").encode()
    text = content[:_SHOWN].decode("ascii", errors="replace")
    return "".join(c if c.isascii() and c.isprintable() else "." for c in text)
