"""Event logs as firmware writes them, for tests."""

import hashlib
import struct

SHA384 = (0x000C, 48)
ACTION, NO_ACTION, VARIABLE = 0x80000007, 3, 0x80000001


def header(*algorithms, signature=b"Spec ID Event03\0", vendor=b"", kind=NO_ACTION):
    content = struct.pack("<16sIBBBBI", signature, 0, 0, 2, 0, 2, len(algorithms))
    content += b"".join(struct.pack("<HH", *a) for a in algorithms)
    content += bytes([len(vendor)]) + vendor
    return struct.pack("<II20sI", 1, kind, bytes(20), len(content)) + content


def event(register, content, *, kind=ACTION, digest=None):
    digest = hashlib.sha384(content).digest() if digest is None else digest
    head = struct.pack("<IIIH", register, kind, 1, SHA384[0])
    return head + digest + struct.pack("<I", len(content)) + content


def log(*events, end=b"\xff" * 64):
    return header(SHA384) + b"".join(events) + end
