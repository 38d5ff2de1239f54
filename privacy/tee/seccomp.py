"""The system calls an enclave may make, as a filter of the kernel's own (seccomp).

What is not listed is refused: with EPERM, or with ENOSYS from `clone3` on, so that the
C library falls back to the older call that the filter can look into. A call of another
architecture (i386 on x86-64) ends the process. The filter holds for every thread.

Written for the kernel's interface directly, not with libseccomp: see
docs/adr/0023-enclave-sandbox.md.
"""

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

from privacy.encoding import Json
from privacy.tee.kernel import call

_SYSCALL = {"x86_64": 317, "aarch64": 277}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_CLONE3 = 435
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data

_CLONE_THREAD = 0x10000 | 0x800 | 0x100  # with CLONE_SIGHAND and CLONE_VM
_PROT_EXEC = 4
_FIONBIO = 0x5421
_NEW_NAMESPACES = 0x7E020000
_PR_SET_NAME, _PR_SET_VMA, _PR_SET_PDEATHSIG = 15, 0x53564D41, 1
_FCNTL = (1, 2, 3, 4)  # F_GETFD, F_SETFD, F_GETFL, F_SETFL

# Numbers on x86-64 and on aarch64; 0 stands for none, where 0 is not the number.
_NONE = -1
_NUMBERS = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "clone": (56, 220),
    "close": (3, 57),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fcntl": (72, 25),
    "fstat": (5, 80),
    "futex": (202, 98),
    "getcpu": (309, 168),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getpeername": (52, 205),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "getsockname": (51, 204),
    "getsockopt": (55, 209),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "ioctl": (16, 29),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "poll": (7, _NONE),
    "ppoll": (271, 73),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "read": (0, 63),
    "recvfrom": (45, 207),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "sendto": (44, 206),
    "set_robust_list": (273, 99),
    "shutdown": (48, 210),
    "sigaltstack": (131, 132),
    "sysinfo": (99, 179),
    "tgkill": (234, 131),
    "time": (201, _NONE),
    "uname": (63, 160),
    "write": (1, 64),
    "writev": (20, 66),
}
_TO_READ_FILES = {
    "getdents64": (217, 61),
    "lseek": (8, 62),
    "newfstatat": (262, 79),
    "openat": (257, 56),
    "pread64": (17, 67),
    "readv": (19, 65),
    "statx": (332, 291),
}
_TO_USE_MEMORY_FILES = {"memfd_create": (319, 279)}
_TO_FORK = {
    "kill": (62, 129),
    "mlockall": (151, 230),
    "seccomp": (317, 277),  # to give up more, in a forked process
    "wait4": (61, 260),
}
_TO_WRITE_FILES = {
    "fsync": (74, 82),
    "ftruncate": (77, 46),
    "mkdir": (83, _NONE),
    "mkdirat": (258, 34),
    "pwrite64": (18, 68),
    "rename": (82, _NONE),
    "renameat2": (316, 276),
    "rmdir": (84, _NONE),
    "unlink": (87, _NONE),
    "unlinkat": (263, 35),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """The words at `offsets` of the call's data, masked, must be among `values`."""

    offsets: tuple[int, ...]
    mask: int
    values: tuple[int, ...]


def policy(
    *, read: bool, write: bool, memory_files: bool = False, forks: bool = False
) -> Json:
    """Return what the filter lets through, as it is measured."""
    numbers = _numbers(read=read, write=write, memory_files=memory_files, forks=forks)
    return {
        "default": "EPERM",
        "calls": sorted(numbers),
        "only": {
            "clone": "no namespaces" if forks else "new threads",
            "fcntl": "flags of descriptors",
            "ioctl": "FIONBIO",
            "mmap, mprotect": "not executable",
            "prctl": "names, parent's end" if forks else "names",
            "prlimit64": "of itself, to read",
            "sendto": "without an address",
            "tgkill": "own threads",
        },
    }


def restrict(
    *, read: bool, write: bool, memory_files: bool = False, forks: bool = False
) -> None:
    """Apply the filter to every thread of this process, for good.

    Args:
        read: Files may be opened; something else must say which.
        write: Files and folders may be made and removed as well.
        memory_files: Files may be made in memory, and opened.
        forks: Processes may be forked and ended, and give up more.

    Raises:
        OSError: The kernel lacks seccomp, or this architecture is not listed here.
    """
    machine = platform.machine()
    if machine not in _SYSCALL:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    raw = program(
        machine,
        read=read,
        write=write,
        pid=os.getpid(),
        memory_files=memory_files,
        forks=forks,
    )
    load(raw)


def load(raw: bytes) -> None:
    """Put every thread of this process under a filter, for good.

    Args:
        raw: Instructions of classic BPF, 8 bytes each.

    Raises:
        OSError: The kernel does not take it.
    """
    code = ctypes.create_string_buffer(raw, len(raw))
    filter_ = struct.pack("HxxxxxxP", len(raw) // 8, ctypes.addressof(code))
    block = ctypes.create_string_buffer(filter_, len(filter_))
    thread = call(
        _SYSCALL[platform.machine()],
        _SET_MODE_FILTER,
        _FLAG_TSYNC,
        ctypes.addressof(block),
    )
    if thread:
        raise OSError(
            errno.ESRCH, f"thread {thread} cannot be brought under the filter"
        )


def program(
    machine: str,
    *,
    read: bool,
    write: bool,
    pid: int,
    memory_files: bool = False,
    forks: bool = False,
) -> bytes:
    """Return the filter's instructions, 8 bytes each."""
    column, conditions = _COLUMN[machine], _conditions(pid, forks=forks)
    calls = _numbers(read=read, write=write, memory_files=memory_files, forks=forks)
    code = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NR),
    ]
    for name, numbers in calls.items():
        if (number := numbers[column]) == _NONE:
            continue
        block = _checks(conditions[name]) if name in conditions else []
        block.append(_step(_RETURN, _ALLOW))
        code += [_step(_EQUAL, number, 0, len(block)), *block]
    code += [
        _step(_AT_LEAST, _CLONE3, 0, 1),
        _step(_RETURN, _ERRNO | errno.ENOSYS),
        _step(_RETURN, _ERRNO | errno.EPERM),
    ]
    return b"".join(code)


def _numbers(
    *, read: bool, write: bool, memory_files: bool = False, forks: bool = False
) -> dict[str, tuple[int, int]]:
    found = dict(_NUMBERS)
    for calls, wanted in (
        (_TO_READ_FILES, read or write or memory_files),
        (_TO_WRITE_FILES, write),
        (_TO_USE_MEMORY_FILES, memory_files),
        (_TO_FORK, forks),
    ):
        found |= calls if wanted else {}
    return found


def _conditions(pid: int, *, forks: bool = False) -> dict[str, tuple[Condition, ...]]:
    """Return what must hold for some calls; words that the kernel reads as 32 bits."""
    clone = _low(0, _CLONE_THREAD, _CLONE_THREAD)
    names = (_PR_SET_NAME, _PR_SET_VMA)
    return {
        "clone": (_low(0, _NEW_NAMESPACES, 0) if forks else clone,),
        "fcntl": (_low(1, _ANY, *_FCNTL),),
        "ioctl": (_low(1, _ANY, _FIONBIO),),
        "mmap": (_low(2, _PROT_EXEC, 0),),
        "mprotect": (_low(2, _PROT_EXEC, 0),),
        "prctl": (_low(0, _ANY, *names, *((_PR_SET_PDEATHSIG,) if forks else ())),),
        "prlimit64": (_low(0, _ANY, 0, pid), _null(2)),
        "sendto": (_null(4),),
        "tgkill": (_low(0, _ANY, pid),),
    }


_ANY = 0xFFFFFFFF


def _low(argument: int, mask: int, *values: int) -> Condition:
    return Condition((_ARGS + 8 * argument,), mask, values)


def _null(argument: int) -> Condition:
    at = _ARGS + 8 * argument
    return Condition((at, at + 4), _ANY, (0,))


def _checks(conditions: tuple[Condition, ...]) -> list[bytes]:
    """Return steps that end the program with EPERM unless all conditions hold."""
    code = []
    for condition in conditions:
        for offset in condition.offsets:
            code += [_step(_LOAD, offset), _step(_AND, condition.mask)]
            values = condition.values
            code += [
                _step(_EQUAL, value, len(values) - i, 0)
                for i, value in enumerate(values)
            ]
            code.append(_step(_RETURN, _ERRNO | errno.EPERM))
    return code


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)
