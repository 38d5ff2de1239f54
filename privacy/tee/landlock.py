"""Which files, sockets and processes an enclave may reach (Landlock, Linux 5.13).

Landlock holds for the thread that asks for it and those it starts later, so it comes
before any other thread. What the kernel's version knows is denied, all of it:

    1 (5.13)   files: open, make, remove, execute
    2, 3, 5    files: link across folders, truncate, ioctl of devices
    4 (6.7)    TCP: bind, connect
    6 (6.12)   abstract unix sockets and signals of processes outside
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from privacy.tee.kernel import call

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE = (
    1 << 1  # write
    | 1 << 4  # remove folder
    | 1 << 5  # remove file
    | 1 << 7  # make folder
    | 1 << 8  # make file
)
_TRUNCATE = 1 << 14
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # how many, from a version on
_TCP, _TCP_VERSION = 1 | 2, 4  # bind, connect
_SCOPES, _SCOPES_VERSION = 1 | 2, 6  # abstract unix sockets, signals


def version() -> int:
    """Return the version of Landlock that this kernel has, 0 for none."""
    try:
        return call(_CREATE, 0, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(*, read: Iterable[Path], write: Iterable[Path]) -> None:
    """Deny this thread, and those it starts, everything but these folders, for good.

    Args:
        read: Files and folders that may be read.
        write: Folders in which files and folders may be read, made and removed.

    Raises:
        OSError: The kernel has no Landlock, or a folder cannot be opened.
    """
    rights = (
        1 << max(n for v, n in _FILE_RIGHTS.items() if v <= max(1, version()))
    ) - 1
    ruleset = _ruleset(rights)
    try:
        readable = _READ_FILE | _READ_DIR
        for path in read:
            _allow(ruleset, path, readable & rights)
        for path in write:
            _allow(ruleset, path, (readable | _WRITE | _TRUNCATE) & rights)
        call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _ruleset(rights: int) -> int:
    words = [rights]
    if version() >= _TCP_VERSION:
        words.append(_TCP)
    if version() >= _SCOPES_VERSION:
        words.append(_SCOPES)
    block = _block(struct.pack(f"={len(words)}Q", *words))
    return call(_CREATE, ctypes.addressof(block), len(block), 0)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    if not path.is_dir():
        rights &= _READ_FILE
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        block = _block(struct.pack("=Qi", rights, beneath))
        call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.addressof(block), 0)
    finally:
        os.close(beneath)


def _block(raw: bytes) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(raw, len(raw))
