"""System calls that the standard library has no function for."""

import ctypes
import os
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_CAPABILITIES_V3 = 0x20080522
_LIBC.syscall.restype = ctypes.c_long


def call(number: int, *arguments: int) -> int:
    """Return what a system call returns; arguments are numbers and addresses.

    Raises:
        OSError: It failed.
    """
    words = [ctypes.c_ulong(word & (1 << 64) - 1) for word in arguments]
    result: int = _LIBC.syscall(ctypes.c_long(number), *words)
    return _checked(result)


def prctl(option: int, *arguments: int) -> int:
    """Set or get something of this process, and return what the kernel does.

    Raises:
        OSError: It failed.
    """
    words = [*arguments, 0, 0, 0, 0][:4]
    result: int = _LIBC.prctl(option, *(ctypes.c_ulong(word) for word in words))
    return _checked(result)


def lock_memory(flags: int) -> bool:
    """Return whether mlockall(2) succeeded."""
    locked: int = _LIBC.mlockall(flags)
    return locked == 0


def drop_capabilities() -> None:
    """Give up every capability of this thread, for good.

    Raises:
        OSError: The kernel refused.
    """
    header, none = struct.pack("=Ii", _CAPABILITIES_V3, 0), bytes(24)
    result: int = _LIBC.capset(header, none)
    _checked(result)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
